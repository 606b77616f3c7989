"""What the outputs of a criterion's head mean, for code that uses the head without the criterion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HeadOutputs:
    """The outputs of a head, and how the criterion makes predictions of them.

    prediction = shift + scale * output, or shift + scale * s(output) with the logistic function s.
    """

    names: tuple[str, ...] = ()  # of the outputs in their order, such as classes
    scale: float = 1.0
    shift: float = 0.0
    logistic: bool = False
    form: str = (
        ""  # what the head reads, in words; the weights of a head of another form do not fit
    )


class HasHead:
    """What a criterion says of its head to code that exports it or starts another head from it (optional)."""

    # what the head corresponds to in other libraries, for fwk-export: 'masked_lm' (a `MaskedLMHead`), 'replaced_token'
    # (dense, GELU, and a dense layer to one logit, which is positive where a token was replaced),
    # 'sequence_classification', 'multilabel_classification', 'sequence_regression' and 'multiple_choice' (a
    # `SequenceHead`), or 'question_answering' (a dense layer `output` to the logits of start and end)
    roles: tuple[str, ...] = ()
    head_path: str = "head"  # the attribute that holds the head
    # options of the criterion that determine what the head reads and of which layers it is; a run that starts from
    # weights takes them from the source's head where its config states none of them
    form_options: tuple[str, ...] = ()

    def head_outputs(self) -> HeadOutputs:
        """Return what the outputs of the head mean."""
        return HeadOutputs()

    def pooling_of_vectors(self) -> str | None:
        """Return how the vectors of sequences are made that this criterion compares, such as 'mean'.

        None: it compares none.
        """
        return None
