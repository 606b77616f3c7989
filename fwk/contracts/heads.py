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
