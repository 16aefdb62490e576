"""The engine against transformers' own `generate`, one prompt at a time, without padding."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from penala.engines import transformers_engine
from penala.engines.engine import Generation
from penala.engines.transformers_engine import TransformersEngine, native_bf16, open_engine, sample
from penala.errors import EngineError
from penala.training.estimate import has_bf16

END = frozenset({2})


@pytest.fixture(scope="module")
def engine(llama_folder):
    return open_engine(llama_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts():
    """Nine prompts of 1 to 25 tokens, in no order."""
    source = random.Random(0)
    return [tuple(source.randrange(3, 97) for _ in range(length)) for length in (4, 25, 1, 7, 16, 2, 11, 3, 20)]


def ask(prompt, **settings):
    return Generation(prompt, **{"max_new_tokens": 12, "end_ids": END} | settings)


def reference(model, prompt, max_new_tokens=12, end_ids=END):
    """The greedy reply as transformers writes it."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(end_ids),
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt) :].tolist())


def drain(engine):
    """Step until the engine is idle; return the tokens of each request and its last finish reason."""
    written, reasons = {}, {}
    while tokens := engine.step():
        for token in tokens:
            written.setdefault(token.request, []).append(token.id)
            reasons[token.request] = token.finish_reason
    return written, reasons


def test_a_batch_of_all_lengths_equals_transformers_one_at_a_time(engine, prompts):
    """Padding, joining and leaving change no token of a greedy reply."""
    replies = engine.generate([ask(prompt) for prompt in prompts])

    assert [reply.ids for reply in replies] == [reference(engine._model, prompt) for prompt in prompts]


@pytest.mark.parametrize("limits", [{"max_rows": 1}, {"max_rows": 3}, {"cache_bytes": 40_000}], ids=str)
def test_a_small_batch_writes_the_same_replies(engine, prompts, limits):
    """How many rows fit at once changes no token."""
    small = TransformersEngine(engine._model, **limits)

    assert small.generate([ask(p) for p in prompts]) == engine.generate([ask(p) for p in prompts])


@pytest.mark.parametrize(("cache_bytes", "tokens"), [(0, 1), (2 << 30, 3)])
def test_a_request_waits_where_the_cache_has_no_room_for_it(engine, prompts, cache_bytes, tokens):
    """One alone is let in all the same; a row that has left takes the columns with it that only it needed."""
    small = TransformersEngine(engine._model, cache_bytes=cache_bytes)
    short, long = min(prompts, key=len), max(prompts, key=len)
    small.add(ask(long, max_new_tokens=1))
    small.add(ask(short, max_new_tokens=4, end_ids=frozenset()))

    # the last one of `long` and, where there is room, the first two of `short`
    assert len(small.step()) == tokens
    while small.step():
        assert small._mask_BT.shape[1] <= len(short) + 4


def test_a_row_that_joins_late_is_not_disturbed_and_disturbs_nobody(engine, prompts):
    """Requests added between steps, shorter and longer than those under way, write their own replies."""
    numbers = {}
    written = {}
    for prompt in (prompts[4], prompts[2], prompts[1]):
        numbers[engine.add(ask(prompt))] = prompt
        for token in [*engine.step(), *engine.step()]:
            written.setdefault(token.request, []).append(token.id)
    for number, tokens in drain(engine)[0].items():
        written.setdefault(number, []).extend(tokens)

    assert {n: tuple(ids) for n, ids in written.items()} == {n: reference(engine._model, p) for n, p in numbers.items()}


def test_growing_in_small_pieces_changes_no_token(engine, prompts, monkeypatch):
    """The cache makes room for 2 tokens at a time instead of 64, through joining and leaving."""
    requests = [ask(prompt, max_new_tokens=number + 2) for number, prompt in enumerate(prompts)]
    replies = engine.generate(requests)

    monkeypatch.setattr(transformers_engine, "_ROOM", 1)

    assert engine.generate(requests) == replies


def test_window_layers_attend_to_their_window_only(prompts):
    """A model whose layers alternate between a window of 4 tokens and the whole past, batched, equals transformers."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.5,
    )
    model = Gemma3ForCausalLM(config).eval()

    replies = TransformersEngine(model).generate([ask(prompt) for prompt in prompts])

    assert [reply.ids for reply in replies] == [reference(model, prompt) for prompt in prompts]


def test_a_model_whose_rows_cannot_be_padded_writes_them_one_after_the_other(prompts):
    """A state-space layer has no mask for padding, and its replies are right all the same."""
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    torch.manual_seed(0)
    config = Qwen3NextConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=2,
        num_experts_per_tok=1,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    )
    model = Qwen3NextForCausalLM(config).eval()

    replies = TransformersEngine(model).generate([ask(prompt, max_new_tokens=5) for prompt in prompts[:3]])

    assert [reply.ids for reply in replies] == [reference(model, prompt, 5) for prompt in prompts[:3]]


def test_a_model_that_picks_frequencies_by_the_longest_row_writes_one_at_a_time(prompts):
    """Phi-3's long variant turns positions by another factor beyond 16 tokens; neighbours must not matter."""
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        original_max_position_embeddings=16,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8,
            "original_max_position_embeddings": 16,
        },
        pad_token_id=0,
        initializer_range=0.5,
    )
    model = Phi3ForCausalLM(config).eval()
    engine = TransformersEngine(model)
    chosen = [prompt for prompt in prompts if len(prompt) > 16 or len(prompt) < 5]

    replies = engine.generate([ask(prompt, max_new_tokens=4) for prompt in chosen])

    assert [reply.ids for reply in replies] == [reference(model, prompt, 4) for prompt in chosen]


def test_a_reply_ends_with_the_first_of_its_own_end_ids(engine, prompts):
    """The end token is the last id, the reason is "stop", and the neighbour with other end ids goes on."""
    whole = reference(engine._model, prompts[0], end_ids=frozenset({96}))
    end = whole[3]

    first, second = engine.generate(
        [ask(prompts[0], end_ids=frozenset({end})), ask(prompts[0], end_ids=frozenset({96}))]
    )

    assert (first.ids, first.finish_reason) == (whole[: whole.index(end) + 1], "stop")
    assert second.ids == whole


def test_a_reply_ends_at_its_limit_and_at_the_end_of_the_context(engine, prompts):
    """The smaller of max_new_tokens and what 64 positions leave, with the reason "length"."""
    nothing = frozenset()
    long_prompt = tuple(range(3, 63))

    short, cut = engine.generate(
        [ask(prompts[0], max_new_tokens=3, end_ids=nothing), ask(long_prompt, max_new_tokens=50, end_ids=nothing)]
    )

    assert (len(short.ids), short.finish_reason) == (3, "length")
    assert (len(cut.ids), cut.finish_reason) == (4, "length")


def test_a_prompt_that_fills_the_context_is_refused(engine):
    """Both numbers are named, and the engine stays empty."""
    with pytest.raises(EngineError, match="64 tokens, the model's context ends at 64"):
        engine.generate([ask((3,)), ask(tuple(range(64)))])

    assert engine.step() == []


def test_cancelled_requests_write_no_more(engine, prompts):
    """A waiting and a running request stop; the others' replies are whole; cancelling twice is no error."""
    gone, stays = engine.add(ask(prompts[0])), engine.add(ask(prompts[1]))
    engine.step()
    waiting = engine.add(ask(prompts[2]))
    for number in (gone, gone, waiting):
        engine.cancel(number)
    written, reasons = drain(engine)

    assert list(written) == [stays]
    assert reasons[stays] == "length" or reasons[stays] == "stop"


def test_a_seed_repeats_its_reply_whoever_shares_the_batch(engine, prompts):
    """Same seed, same tokens, alone or among others; another seed writes something else."""
    hot = {"temperature": 1.5, "top_p": 0.95, "end_ids": frozenset()}
    alone = engine.generate([ask(prompts[0], seed=7, **hot)])[0]
    crowd = engine.generate([ask(prompts[1], seed=1, **hot), ask(prompts[0], seed=7, **hot), ask(prompts[2], **hot)])
    other = engine.generate([ask(prompts[0], seed=8, **hot)])[0]

    assert crowd[1] == alone
    assert other != alone


def test_seed_zero_is_a_seed(engine, prompts):
    """Two draws with seed 0 agree."""
    request = ask(prompts[0], seed=0, temperature=2.0, end_ids=frozenset())

    assert engine.generate([request]) == engine.generate([request])


def test_sampling_draws_from_the_nucleus_by_its_probabilities():
    """Tokens 2, 0 and 1 have 50, 30 and 20 %; a top_p of 0.6 leaves the first two, rescaled."""
    logits = torch.tensor([0.3, 0.2, 0.5]).log()

    def draws(top_p):
        return [sample(logits, 1.0, top_p, draw) for draw in (0.0, 0.49, 0.51, 0.79, 0.81, 0.999)]

    assert draws(1.0) == [2, 2, 0, 0, 1, 1]
    assert draws(0.6) == [2, 2, 2, 0, 0, 0]  # 0.5 / 0.8 = 0.625
    assert draws(0.01) == [2] * 6


def test_temperature_sharpens_and_flattens():
    """At 0.5 the odds are squared: 0.25 / 0.38 of the mass lies on the likeliest token."""
    logits = torch.tensor([0.3, 0.2, 0.5]).log()

    assert sample(logits, 0.5, 1.0, 0.65) == 2
    assert sample(logits, 0.5, 1.0, 0.67) == 0
    assert sample(logits, 100.0, 1.0, 0.35) == 0


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_bf16_only_where_the_processor_multiplies_it(capabilities, native):
    """AVX2 alone means float32."""
    assert native_bf16(capabilities) is native


def test_replies_are_computed_as_training_computes():
    """torch, which the engine asks, and the kernel, which training asks, say the same of this processor."""
    assert native_bf16(torch.cpu.get_capabilities()) is has_bf16()


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def test_a_folder_without_config_is_refused(tmp_path):
    """The message names the folder and what is missing."""
    with pytest.raises(EngineError, match=r"no config\.json"):
        open_engine(tmp_path)


def test_pickled_weights_are_refused_by_name(llama_folder, tmp_path):
    """A pytorch_model.bin beside config.json is named and not read."""
    folder = copy(llama_folder, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(EngineError, match=r"no safetensors but pytorch_model\.bin"):
        open_engine(folder)


def test_missing_weights_are_refused_and_never_made_up(llama_folder, tmp_path):
    """A tensor that is not in the file is named; transformers alone would draw it at random."""
    folder = copy(llama_folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(EngineError, match=r"1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        open_engine(folder)


def test_code_that_came_with_the_weights_is_not_run(llama_folder, tmp_path):
    """A config that points at a module of its own is refused, and the module is not imported."""
    folder = copy(llama_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "trap", "auto_map": {"AutoConfig": "trap.C", "AutoModelForCausalLM": "trap.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")

    with pytest.raises(EngineError, match="cannot be loaded"):
        open_engine(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_cut_weights_file_is_refused(llama_folder, tmp_path):
    """Half a safetensors file is an EngineError that names the folder."""
    folder = copy(llama_folder, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(EngineError, match="cannot be loaded"):
        open_engine(folder)
