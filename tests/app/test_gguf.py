"""GGUF files load, dequantized, and convert to a folder that says the same."""

import json
import os

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file

from qlora.models import convert, load_model
from qlora_kernels.errors import InputError

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(folder, path, quantization=None) -> None:
    """The tiny Llama of `folder` as a GGUF file; matrices of the layers in a 4-bit type, if any."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, folder)
    for name, tensor in load_file(folder / "model.safetensors").items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        array = tensor.float()
        for part, count in heads.items():
            if part in name:
                array = _as_llama_cpp_rotates(array, config[count])
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        kind = quantization if array.dim() == 2 and "blk" in name else None
        data = gguf.quants.quantize(array.numpy(), kind) if kind else array.numpy()
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _as_llama_cpp_rotates(weight, heads):
    """Rows of each head interleaved: llama.cpp rotates neighbours, transformers rotates halves."""
    out, k = weight.shape
    return (
        weight.reshape(heads, 2, out // heads // 2, k).transpose(1, 2).reshape(out, k).contiguous()
    )


def _add_tokenizer(writer, folder) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    control = {token["id"] for token in tokenizer["added_tokens"]}
    kinds = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([kinds[index in control] for _, index in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)  # as SmolLM2's
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


@pytest.fixture
def write(tiny, tmp_path):
    def writer(quantization=None):
        write_gguf(tiny, tmp_path / "tiny.gguf", quantization)
        return tmp_path / "tiny.gguf"

    return writer


def test_a_gguf_file_is_the_model_that_was_written(write, model, tokenizer):
    loaded, loaded_tokenizer = load_model(write(), "float32")
    ids = loaded_tokenizer("To be, or not to be")["input_ids"]
    assert ids == tokenizer("To be, or not to be")["input_ids"]
    assert (loaded_tokenizer.eos_token_id, loaded_tokenizer.pad_token_id) == (2, 2)
    assert loaded_tokenizer.chat_template == tokenizer.chat_template
    ids = torch.tensor([ids])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_a_four_bit_file_converts_to_a_folder_that_says_the_same(write, tmp_path):
    path = write(GGMLQuantizationType.Q4_1)
    loaded, _ = load_model(path, "bfloat16")
    folder = convert(path, tmp_path / "converted")
    converted, tokenizer = load_model(folder, "bfloat16")
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(converted.state_dict()[name]), name
    assert tokenizer.eos_token_id == 2 and tokenizer.chat_template
    assert sorted(os.listdir(tmp_path)) == ["converted", "tiny.gguf"]


def test_a_file_that_ends_early_is_refused(write):
    path = write()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"AutoModelForCausalLM cannot read .*tiny.gguf: "):
        load_model(path)
