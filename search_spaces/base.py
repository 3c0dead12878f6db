"""The base of every config and of the JSON files that the product writes."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every config. Instances are immutable, numbers are finite, and an undeclared key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
