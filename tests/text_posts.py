"""Made-up posts of two classes, from a grammar with a wide choice of words, and a tiny encoder of texts."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from clinsynth.data.texts import TextSet

LABELS = ["mild", "severe"]
WHO = "my sister,the neighbour,an old friend,my boss,our teacher,the driver,a cousin,my aunt,somebody,the nurse".split(
    ","
)
WHEN = "at night,since spring,before work,on Sundays,after lunch,all week,in the morning,lately,by noon,twice".split(
    ","
)
WHERE = "in the kitchen,on the bus,at the lake,near the school,upstairs,outside,by the window,at work,downtown".split(
    ","
)
DID = "cooks,drives,writes,calls,reads,walks,sings,paints,waits,runs,counts,sleeps,talks,knits,digs,swims".split(",")
THING = "letters,the bread,old songs,a ladder,the roof,green apples,my shoes,the radio,a map,coins,soup,paper".split(
    ","
)
BAD = {
    "mild": "sad,worried,nervous,tearful,lonely,irritated,stressed,uneasy,ashamed,anxious".split(","),
    "severe": "hopeless,worthless,terrified,suicidal,trapped,furious,broken,useless,doomed,pathetic".split(","),
}
GOOD = "calm,hopeful,grateful,safe,supported,confident,peaceful,happy,stronger,connected".split(",")
COUNT = {"mild": 1, "severe": 3}


def write_post(label: str, generator: np.random.Generator, softened: bool = False) -> str:
    """Four to six sentences; the severe ones hold more and harsher words, softened ones hopeful words instead."""

    def one(words: list[str]) -> str:
        return str(generator.choice(words))

    plain = [
        lambda: f"{one(WHO)} {one(DID)} {one(WHERE)} {one(WHEN)}.",
        lambda: f"{one(WHEN)} {one(WHO)} {one(DID)} with {one(THING)} and {one(THING)}.",
        lambda: f"there are {one(THING)} {one(WHERE)}, {one(WHO)} {one(DID)}.",
    ]
    felt = GOOD if softened else BAD[label]
    feelings = [f"{one(WHEN)} i am {one(felt)} {one(WHERE)}." for _ in range(COUNT[label])]
    sentences = [plain[generator.integers(3)]() for _ in range(3)] + feelings
    return " ".join(sentences[number] for number in generator.permutation(len(sentences)))


def write_posts(count: int, seed: int, prefix: str, softened: bool = False) -> TextSet:
    """`count` posts, two in three of them mild."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 2).astype(np.int64)
    texts = [write_post(LABELS[label], generator, softened) for label in labels]
    return TextSet(texts, labels, [f"{prefix}-{row}" for row in range(count)])


def save_tiny_encoder(folder: Path, texts: list[str]) -> Path:
    """An untrained BERT of one layer, with a WordPiece tokenizer of the texts' own words."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    return folder
