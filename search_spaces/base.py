"""The base of every config and of every file of JSON that the product writes."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every config: immutable, finite numbers only, and a key that is not declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
