"""Layouts of known data sets: their original files become labelled examples.

- `glue`: the nine tasks of GLUE and its diagnostic set, and the files of a submission.
- `squad`: SQuAD 1.1 and 2.0, and the scores of the official evaluation.
- `multiple_choice`: SWAG, HellaSwag, ARC and MuTual.
"""
