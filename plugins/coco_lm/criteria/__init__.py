"""The two criteria of COCO-LM, each usable without the other."""
