"""Makes a small decoder that knows nothing yet, with a tokenizer learnt from a corpus; `find` then trains it.

    python scripts/new_decoder.py decoder --text wikitext-2/wiki.train.tokens
    supertickets find --model decoder --task clm --data wikitext-2 --kinds none --keep dense --learning-rate 3e-3 \
        --out runs/decoder
    supertickets find --model runs/decoder/model --task clm --data wikitext-2

It is a Llama whose query heads share key/value heads.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"


def main() -> None:
    """Write the folder of the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the model")
    parser.add_argument("--text", type=Path, required=True, help="file of plain text to learn the tokenizer from")
    parser.add_argument("--vocabulary", type=int, default=2000, help="number of tokens (default: 2000)")
    parser.add_argument("--layers", type=int, default=4, help="number of layers (default: 4)")
    parser.add_argument("--heads", type=int, default=8, help="number of heads, of 16 numbers each (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the weights (default: 0)")
    asked = parser.parse_args()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=asked.vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(asked.text)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=512)
    hidden, end = 16 * asked.heads, tokenizer.token_to_id(END)
    shared = asked.heads // 2 if asked.heads % 2 == 0 else 1  # key/value heads, whose number must divide that of heads
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), num_hidden_layers=asked.layers, num_attention_heads=asked.heads,
        num_key_value_heads=shared, hidden_size=hidden, intermediate_size=3 * hidden,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    torch.manual_seed(asked.seed)
    model = LlamaForCausalLM(config)
    model.save_pretrained(asked.folder)
    fast.save_pretrained(asked.folder)
    print(f"{asked.folder}: {model.num_parameters():,} parameters, {config.vocab_size:,} tokens")


if __name__ == "__main__":
    main()
