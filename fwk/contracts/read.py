"""What a criterion declares about each view that it reads."""

from __future__ import annotations

from dataclasses import dataclass

from fwk.contracts.plain import PlainMapping


@dataclass(frozen=True)
class Read:
    """How a criterion reads one view, and how the view is made unless the user's config says otherwise."""

    # the view as under `views:` in a config, such as {"noiser": "bert_mask", "ratio": 0.15}; None: the criterion brings
    # no default, so another criterion or the user's config must define the view
    default: PlainMapping | None = None
    # False: the criterion does not use `view.encoded`, so the view is not encoded on its behalf
    encoded: bool = True
    # True: the criterion needs chosen positions; a view whose noisers choose none is refused (see `Noiser.chooses`)
    positions: bool = False
    # True: the criterion needs `view.log_q`; a noiser that does not know it is refused (see `Noiser.knows_log_q`)
    log_q: bool = False
    # True: the criterion's estimate needs positions that are chosen whatever tokens stand there; a view whose positions
    # depend on the tokens is refused (see `Noiser.chooses_by_token`)
    any_token: bool = False
    # True: of `view.encoded` the criterion reads the features at the first position alone, and no state of the last
    # layer; an encoder that can then computes no others
    first_only: bool = False
