"""The contract of encoders (registry `model`): named inputs -> `Encoded`. An encoder knows no objective."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal

from torch import Tensor, nn

from fwk.contracts.component import ConfigT
from fwk.contracts.shapes import Plain
from fwk.contracts.sizes import Transformer
from fwk.contracts.views import Encoded
from fwk.errors import ConfigError, did_you_mean

Direction = Literal["both", "left_to_right", "right_to_left"]


class Encoder(nn.Module, Generic[ConfigT]):
    """Base class of encoders, registered with `@register("model", NAME)`.

    A subclass sets `width` and defines `forward`; everything else is optional.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the encoder."""

    width: int  # D of `Encoded.features`
    # the positions that a position attends to: all; itself and the earlier ones; itself and the later ones
    direction: Direction = "both"
    longest: int = 0  # tokens of the longest sequence that it can read; 0: no limit
    sees_itself: bool = True  # False: the features of a position depend on all tokens but its own
    # True: `forward` takes `first_only`, with which the features are those of the first position alone, [B, 1, D]; the
    # engine asks for them where no criterion reads more (`Read.first_only`)
    computes_first_alone: bool = False
    # False: it is built after the main encoder (`build.encoder`) and cannot be the main encoder
    standalone: bool = True

    # subclasses take a `BuildContext`, whose module imports this one
    def __init__(self, config: ConfigT, build: object) -> None:
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
        """Return the encodings of B sequences.

        inputs: by name, each [B, ...]. mask: bool [B, T], False on padding; None: all positions are content.
        embedding_change: [B, T, E] with E = `embedding_width`, added to the embedded inputs. states: the named states
        to return.
        """
        raise NotImplementedError

    def innermost(self) -> Encoder:
        """Return the encoder that does the work; an encoder that resizes or shares another one returns that one."""
        return self

    @classmethod
    def transformers(
        cls, config: ConfigT, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        """Return the sizes of the Transformers that it consists of, from which `fwk.flops` counts; (): unknown.

        main: the sizes of the main encoder, for an encoder that is built after it.
        """
        return ()

    def state_names(self) -> tuple[str, ...]:
        """Return the names of the states that this encoder can return."""
        return ()

    def states_of_sequences(self) -> tuple[str, ...]:
        """Return the names of the states that are one vector per sequence, [B, D]."""
        return tuple(name for name in self.state_names() if name == "pooled")

    def state_width(self, name: str) -> int:
        """Return the last dimension of a state."""
        return self.width

    def embedding(self) -> nn.Embedding | None:
        """Return the token embedding [V, E], to which heads may be tied; None for encoders that read no tokens."""
        return None

    @property
    def embedding_width(self) -> int:
        """E of `embedding_change`: that of the token embedding if there is one, otherwise `width`.

        An encoder whose embedded inputs have another width overrides it.
        """
        embedding = self.embedding()
        return self.width if embedding is None else embedding.embedding_dim

    def options_of_task(self) -> dict[str, Plain]:
        """Return the options whose defaults come from the task, as they were for this encoder.

        A run that starts from its weights has these options unless it states others.
        """
        return {}

    def parts(self) -> dict[str, str]:
        """Return what another network may share: public name -> attribute path of the sub-module or parameter."""
        return {}

    def reinitialise(self, module: nn.Module, deviation: float = 0.02) -> None:
        """Give a module inside one of the layers, or above them, weights as the constructor draws them (overridable).

        Without gradient, from torch's generator. By default as BERT has it: biases are 0, the factors of norms 1, and
        all other weights normal with this deviation.
        """
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=deviation)
            else:
                nn.init.constant_(parameter, 0.0 if "bias" in name else 1.0)

    def assets(self) -> Mapping[str, bytes]:
        """Return, by file name, what the constructor reads besides its options, so that the run keeps it.

        They lie in RUN/tokenizer. When the run resumes or is loaded they are in `BuildContext.assets`, and the weights
        come from the checkpoint: where the encoder began with files of the user, these may be gone.
        """
        return {}

    def check_states(self, wanted: Sequence[str], reader: str) -> None:
        """Raise ConfigError where this encoder lacks one of the states that `reader` reads."""
        for name in wanted:
            if name not in self.state_names():
                raise ConfigError(
                    "model",
                    f"{reader} reads state '{name}', which {type(self).__name__} does not have"
                    f"{did_you_mean(name, self.state_names())}",
                )

    def check_first_position(self, reader: str) -> None:
        """Raise ConfigError where `reader` reads the first position for the sequence, and it sees only itself."""
        if self.innermost().direction == "left_to_right":
            raise ConfigError(
                "model.direction",
                f"{reader} reads the first position, which sees nothing but itself in an encoder that reads left to "
                "right; expected both",
            )

    def check_sees_itself(self, key: str) -> None:
        """Raise ConfigError at `key` where a component judges each token but no position sees its own token."""
        if not self.sees_itself:
            raise ConfigError(
                key,
                f"judges every token, and in {type(self).__name__} no position sees its own token; expected an encoder "
                "with sees_itself = True (fwk-plugins list shows the models)",
            )
