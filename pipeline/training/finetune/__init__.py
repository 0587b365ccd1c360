"""`promptmill finetune`: adapters learnt from a few images, with a resume that is exact."""
