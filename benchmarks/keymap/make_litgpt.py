# ruff: noqa: E501
"""Cases from litgpt's conversions between transformers checkpoints and its own GPT, in both directions.

    pip install torch==2.13.0 litgpt==0.5.13
    pip install --target HF4 transformers==4.57.6
    python make_litgpt.py --hf4 HF4

Truth: `litgpt.scripts.convert_hf_checkpoint.copy_weights_*` and `convert_lit_checkpoint.copy_weights_*`, run on marked
tensors. Real widths; the number of layers and experts is reduced. transformers listings come from release 4.57.6.
"""

import inspect

import tracing as T

ARGS = T.arguments("hf4")
URL = "https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/scripts/"
SETUP = """
import transformers as H
def model(cls, cfg, **kw):
    return lambda: getattr(H, cls)(getattr(H, cfg)(**kw))
BUILD = {
  "pythia": model("GPTNeoXForCausalLM", "GPTNeoXConfig", hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048, vocab_size=50304),
  "tinyllama": model("LlamaForCausalLM", "LlamaConfig", hidden_size=2048, num_hidden_layers=4, num_attention_heads=32, num_key_value_heads=4, intermediate_size=5632, vocab_size=32000),
  "phi": model("PhiForCausalLM", "PhiConfig", hidden_size=2048, num_hidden_layers=4, num_attention_heads=32, intermediate_size=8192, vocab_size=51200),
  "qwen25": model("Qwen2ForCausalLM", "Qwen2Config", hidden_size=896, num_hidden_layers=8, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True),
  "gemma2": model("Gemma2ForCausalLM", "Gemma2Config", hidden_size=576, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4, head_dim=256, intermediate_size=2304, vocab_size=4096),
  "olmo2": model("Olmo2ForCausalLM", "Olmo2Config", hidden_size=1024, num_hidden_layers=6, num_attention_heads=16, num_key_value_heads=16, intermediate_size=4096, vocab_size=8192),
  "mixtral": model("MixtralForCausalLM", "MixtralConfig", hidden_size=512, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, intermediate_size=1024, vocab_size=8000, num_local_experts=8),
  "falcon": model("FalconForCausalLM", "FalconConfig", hidden_size=1136, num_hidden_layers=4, num_attention_heads=71, multi_query=True, new_decoder_architecture=False, parallel_attn=True, bias=False, alibi=False, vocab_size=8128),
  "qwen3": model("Qwen3ForCausalLM", "Qwen3Config", hidden_size=1024, num_hidden_layers=6, num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=3072, vocab_size=8192),
}
"""


def main():
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts import convert_hf_checkpoint as there
    from litgpt.scripts import convert_lit_checkpoint as back

    hf = T.old_listings(ARGS.hf4, SETUP)
    small = {"padded_vocab_size": 8192}
    cases = [
        # HF name, litgpt config, function there, function back, what
        (
            "pythia",
            Config.from_name("pythia-70m"),
            there.copy_weights_gpt_neox,
            None,
            "GPT-NeoX (Pythia-70M), fused qkv with its rows reassembled",
        ),
        (
            "tinyllama",
            Config.from_name("tiny-llama-1.1b", n_layer=4),
            there.copy_weights_hf_llama,
            back.copy_weights_llama,
            "Llama (TinyLlama widths, 4 layers), grouped queries: q, k, v joined unevenly",
        ),
        (
            "phi",
            Config.from_name("phi-1_5", n_layer=4, padded_vocab_size=51200),
            there.copy_weights_phi,
            back.copy_weights_phi,
            "Phi-1.5 (4 layers), biases everywhere, q, k, v joined",
        ),
        (
            "qwen25",
            Config.from_name("Qwen2.5-0.5B", n_layer=8, padded_vocab_size=151936),
            there.copy_weights_qwen_2_5,
            None,
            "Qwen2.5-0.5B (8 layers), q, k, v with biases joined; the head is tied to the embedding",
        ),
        (
            "gemma2",
            Config.from_name("Gemma-2-2b", n_layer=6, n_embd=576, intermediate_size=2304, padded_vocab_size=4096),
            there.copy_weights_gemma_2,
            back.copy_weights_gemma_2,
            "Gemma 2 (reduced width), four norms per layer",
        ),
        (
            "olmo2",
            Config.from_name(
                "OLMo-2-1124-7B",
                n_layer=6,
                n_embd=1024,
                n_head=16,
                n_query_groups=16,
                head_size=64,
                intermediate_size=4096,
                **small,
            ),
            there.copy_weights_olmo2,
            back.copy_weights_olmo2,
            "OLMo 2 (reduced width), norms after the layers and on q and k",
        ),
        (
            "mixtral",
            Config.from_name(
                "Mixtral-8x7B-v0.1",
                n_layer=3,
                n_embd=512,
                n_head=8,
                n_query_groups=2,
                head_size=64,
                intermediate_size=1024,
                padded_vocab_size=8000,
            ),
            there.copy_weights_hf_llama,
            None,
            "Mixtral (reduced width): experts w1, w3, w2 to fc_1, fc_2, proj",
        ),
        (
            "qwen3",
            Config.from_name("Qwen3-0.6B", n_layer=6, **small),
            there.copy_weights_qwen_3,
            back.copy_weights_qwen_3,
            "Qwen3-0.6B (6 layers), norms on q and k",
        ),
    ]
    for name, config, forth, reverse, what in cases:
        lit = T.listing(T.state_of(lambda config=config: GPT(config)))
        packages = "transformers 4.57.6 <-> litgpt 0.5.13"

        def to_lit(sd, config=config, forth=forth):
            out = {}
            names = inspect.signature(forth).parameters
            given = {"config": config, "qkv_weights": {}, "state_dict": out, "hf_weights": sd}
            forth(**{k: v for k, v in given.items() if k in names})
            return out

        ident = f"hf-{name}-to-litgpt"
        if ARGS.only in ident:
            tied = ["tied"] if name in ("qwen25", "gemma2") else []
            source = [r for r in hf[name] if not (tied and r[0] == "lm_head.weight")]  # as save_pretrained writes it
            T.convert(
                ident, what, source, lit, to_lit, url=URL + "convert_hf_checkpoint.py", packages=packages, tags=tied
            )
        ident = f"litgpt-{name}-to-hf"
        if reverse and ARGS.only in ident and name in ("tinyllama", "phi"):

            def to_hf(sd, config=config, reverse=reverse):
                out = {}
                reverse(config, out, sd)
                return out

            T.convert(
                ident,
                "The reverse: " + what,
                lit,
                hf[name],
                to_hf,
                url=URL + "convert_lit_checkpoint.py",
                packages=packages,
            )


if __name__ == "__main__":
    main()
