"""The contract of encoders (registry `model`): named inputs -> `Encoded`. An encoder knows no objective."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fwk.contracts.sizes import Transformer
from fwk.contracts.views import Encoded
from fwk.errors import ConfigError


class Encoder(nn.Module):
    """Base class of encoders; registered with `@register("model", NAME)`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    width: int  # D of `features`
    direction = "both"  # or left_to_right, right_to_left: a position sees itself and what comes before it, or after it
    longest = 0  # tokens of the longest sequence it can read; 0: any number
    sees_itself = True  # False: the features of a position are made of all tokens but its own
    standalone = True  # False: it is made after the main encoder (`build.encoder`), and cannot be that itself

    def __init__(self, config: Any, build: Any):  # a BuildContext, which is defined above encoders
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        """inputs: by name, each [B, ...]. mask: bool [B, T], True on content. embedding_change: [B, T, E], E being
        `embedding_width`, added to the embedded inputs. states: which named states to return."""
        raise NotImplementedError

    def innermost(self) -> Encoder:
        """The encoder that does the work, where this one only sizes or shares it."""
        return self

    @classmethod
    def transformers(
        cls, config: Any, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        """The Transformers it consists of, for counting operations (`fwk.flops`); none: unknown. main: those of the main
        encoder, for one that is made after it."""
        return ()

    def state_names(self) -> tuple[str, ...]:
        """The states this encoder can return."""
        return ()

    def state_width(self, name: str) -> int:
        """The last dimension of a state."""
        return self.width

    def embedding(self) -> nn.Embedding | None:
        """The token embedding [V, E], for tying; None for encoders that read no tokens."""
        return None

    @property
    def embedding_width(self) -> int:
        """E of `embedding_change`: that of the token embedding where there is one, else `width`. An encoder whose
        embedded inputs have another width says so."""
        embedding = self.embedding()
        return self.width if embedding is None else embedding.embedding_dim

    def parts(self) -> dict[str, str]:
        """Parts that another network may share: public name -> attribute path of the sub-module or parameter."""
        return {}

    def check_states(self, wanted: Sequence[str], who: str) -> None:
        """ConfigError when `who` wants a state that this encoder does not have."""
        for name in wanted:
            if name not in self.state_names():
                from fwk.errors import did_you_mean

                raise ConfigError(
                    "model",
                    f"{who} reads state '{name}', which {type(self).__name__} does not have"
                    f"{did_you_mean(name, self.state_names())}",
                )

    def check_sees_itself(self, who: str) -> None:
        """ConfigError when `who` (a key) judges tokens and no position of this encoder sees its own."""
        if not self.sees_itself:
            raise ConfigError(
                who,
                f"{type(self).__name__} lets no position see its own token, so there is no judging it; expected an "
                "encoder such as 'bert' (--model bert)",
            )
