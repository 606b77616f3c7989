"""COCO-LM (Meng et al. 2021, "COCO-LM: Correcting and Contrasting Text Sequences for Language Model Pretraining", NeurIPS)."""

from fwk_plugins.coco_lm import corrective_lm, sequence_contrastive  # noqa: F401
