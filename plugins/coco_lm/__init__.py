"""COCO-LM: corrective language modelling and the contrast of sequences.

Meng et al. 2021: "COCO-LM: Correcting and Contrasting Text Sequences for Language Model Pretraining", NeurIPS.
"""
