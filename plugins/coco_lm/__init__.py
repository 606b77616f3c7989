"""COCO-LM (Meng et al. 2021, "COCO-LM: Correcting and Contrasting Text Sequences for Language Model Pretraining", NeurIPS)."""
