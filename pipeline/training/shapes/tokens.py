"""The tokenizer of both models: one token a word, unknown words as <unk>, padding with the end token.

Padding with the end token, not with zeros: under the text encoder's causal mask each padding position has seen the
whole caption, and so serves as a register that cross-attention can read.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from promptmill.pipeline.shapes.captions import WORDS
from promptmill.pipeline.training.shapes.settings import MAX_TOKENS

UNKNOWN, START, END = "<unk>", "<start>", "<end>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The end token has the highest id: CLIP's pooling takes the first position of the largest id."""
    vocabulary = {w: i for i, w in enumerate([*WORDS, ",", UNKNOWN, START, END])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
        padding_side="right",
        truncation_side="right",
    )
