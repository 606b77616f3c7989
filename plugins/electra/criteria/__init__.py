"""What corrupted views are judged by."""

from fwk_plugins.electra.criteria import (  # noqa: F401
    all_tokens_mlm,
    cloze,
    corruption_detection,
    noise_contrastive,
    replace_mlm,
    replaced_token_detection,
)
