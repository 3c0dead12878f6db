"""Evaluation: how far a model is from the text and from the dense model. Logits are fp32, sums are fp64."""

from collections.abc import Callable

import torch
from torch import Tensor

from search_spaces.errors import SponError
from trainables.activity import track
from trainables.cost import out_of_memory
from trainables.loss import log_normaliser, logits_of, operand, token_chunks
from trainables.model.resident import ResidentModel
from trainables.scores import Scores
from trainables.teacher import Teacher, next_tokens
from trainables.text.corpus import Blocks


def scores_from_tokens(nll: Tensor, kl: Tensor, blocks: Blocks) -> Scores:
    """Sum NLL of next tokens, (blocks, seq - 1), and KL of positions, (blocks, seq), by block and document, in nats."""
    n_documents = int(blocks.documents.max()) + 1

    def by_document(values: Tensor, documents: Tensor) -> Tensor:
        sums = torch.zeros(n_documents, dtype=torch.float64)
        return sums.index_add_(0, documents.flatten(), values.double().flatten())

    predicted = blocks.documents[:, 1:]
    return Scores(
        block_nll=nll.double().sum(dim=1),
        block_kl=kl.double().sum(dim=1),
        block_predictions=torch.full((len(nll),), float(nll.shape[1]), dtype=torch.float64),
        block_positions=torch.full((len(kl),), float(kl.shape[1]), dtype=torch.float64),
        document_nll=by_document(nll, predicted),
        document_kl=by_document(kl, blocks.documents),
        document_predictions=by_document(torch.ones_like(nll), predicted),
        document_positions=by_document(torch.ones_like(kl), blocks.documents),
    )


def score(model: ResidentModel, blocks: Blocks, teacher: Teacher, what: str = "scoring") -> Scores:
    """Sums of ``token_scores`` by block and by document."""
    return scores_from_tokens(*token_scores(model, blocks, teacher, what), blocks)


@torch.inference_mode()
def token_scores(
    model: ResidentModel, blocks: Blocks, teacher: Teacher, what: str = "scoring"
) -> tuple[Tensor, Tensor]:
    """Score the model in whatever state it is in: dense, or inside ``sparsified``.

    The teacher statistics are of the same blocks, at temperature 1. ``what`` names the activity in progress reports.

    Returns:
        NLL of each next token (blocks, seq - 1) and KL(dense || model) at each position (blocks, seq), nats, fp32 on
        the CPU.
    """
    head, values = operand(model.head), model.head.dtype
    nll, kl = torch.empty_like(teacher.nll), torch.empty_like(teacher.entropy)

    def score_rows(rows: slice) -> None:
        tokens = blocks.tokens[rows].to(model.device)
        mean_row, entropy = teacher.mean_row[rows], teacher.entropy[rows]
        nll[rows], kl[rows] = _batch_scores(model.hidden(tokens).float(), head, values, tokens, mean_row, entropy)

    for rows in track(model.batches(blocks.tokens), what, "batch"):
        _in_halves(score_rows, slice(rows.start, min(rows.stop, len(blocks.tokens))))
    return nll.cpu(), kl.cpu()


def _in_halves(run: Callable[[slice], None], rows: slice) -> None:
    """Run on some blocks, in halves where a GPU has no memory for all.

    Raises:
        SponError: if one block does not fit.
    """
    try:
        run(rows)
        return
    except torch.OutOfMemoryError as error:
        if rows.stop - rows.start == 1:
            raise SponError(out_of_memory("scoring one block")) from error
    torch.cuda.empty_cache()  # here, where no frame of the failed pass still holds its tensors
    middle = (rows.start + rows.stop) // 2
    _in_halves(run, slice(rows.start, middle))
    _in_halves(run, slice(middle, rows.stop))


def _batch_scores(
    hidden: Tensor, head: Tensor, values: torch.dtype, tokens: Tensor, mean_row: Tensor, entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """NLL (batch, seq - 1) and KL (batch, seq) of each token, from one set of fp32 logits.

    ``values`` is the dtype of the model (``logits_of``). The last position has no next token, so its NLL is dropped.
    """
    labels = next_tokens(tokens).flatten()
    flat, rows = hidden.flatten(0, 1), mean_row.flatten(0, 1)
    nll, kl = flat.new_empty(len(flat)), flat.new_empty(len(flat), dtype=torch.float64)
    for part in token_chunks(flat):
        logits = logits_of(flat[part], head, values)
        label = logits.gather(1, labels[part, None]).squeeze(1)
        lse = log_normaliser(logits)
        nll[part] = lse - label
        kl[part] = lse.double() - (flat[part].double() * rows[part].double()).sum(dim=-1)
    return nll.view(tokens.shape)[:, :-1], kl.view(tokens.shape) - entropy


def dense_scores(teacher: Teacher, blocks: Blocks) -> Scores:
    """The dense model's own scores, from its teacher statistics; its KL is zero."""
    return scores_from_tokens(teacher.nll.cpu(), torch.zeros(blocks.tokens.shape), blocks)
