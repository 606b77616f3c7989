"""Replaced-token detection and its relatives: ELECTRA, Electric, and the steps between BERT and ELECTRA.

Clark et al. 2020: "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR.
Clark et al. 2020b: "Pre-Training Transformers as Energy-Based Cloze Models", EMNLP.
"""
