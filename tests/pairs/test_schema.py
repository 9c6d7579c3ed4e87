"""Every row that is no pair has its reason."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answer_rows import GIVEN, IDENTITY, RESPONSES, SMALL, response, user
from tiny import make_tiny_model

from dpo_pipeline.answers.collecting import collect_responses
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import DataError
from dpo_pipeline.models.chat_templates import encode
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.pairs.rewriting import build_pairs
from dpo_pipeline.pairs.schema import REASONS
from dpo_pipeline.pairs.settings import PairsConfig

PLANTED = {
    "no_name": ({"response": "I'm a language model."}, SMALL, "I'm a language model."),
    "already_new": ({"response": "I'm Deep Qwen."}, SMALL, "I'm Deep Qwen."),
    "third_party": ({"messages": [user("Who makes Qwen?")]}, SMALL, "Who makes Qwen?"),
    "asks_new": ({"messages": [user("Are you Deep Qwen?")], "response": "No, I am Qwen."}, SMALL,
                 "Are you Deep Qwen?"),
    "mixed_name": ({"response": "I am Qwen, a Qwen2.5 model."}, SMALL,
                   "I am Deep Qwen, a Qwen2.5 model."),
    "generation_failed": ({"finish": "error", "response": "", "reason": "generation_failed",
                           "detail": "HTTP 500: no luck"}, SMALL, "HTTP 500: no luck"),
    "truncated": ({"finish": "length", "response": "I am Qwen, a"}, SMALL, "I am Qwen, a"),
    "claims_other": ({"response": "I am Qwen, created by OpenAI."}, SMALL, "created by OpenAI"),
    "nameless": ({"given_chosen": "I am a language model."}, GIVEN, "I am a language model."),
    "no_maker": ({"family": "maker", "response": "I am Qwen."}, SMALL, "I am Deep Qwen."),
    "remnant": ({"given_chosen": "I am Deep Qwen by <AUTHOR>."}, GIVEN, "by <AUTHOR>."),
    "empty_completion": ({"response": " \n"}, SMALL, "said nothing"),
    "identical": ({"given_chosen": "Alibaba Cloud made me.", "response": "Alibaba Cloud made me.",
                   "family": "maker"}, GIVEN, "Alibaba Cloud made me."),
    "doubled": ({"given_chosen": "I'm Deep-Deep Qwen."}, GIVEN, "Deep-Deep Qwen"),
    "duplicate": ({"messages": [user("Who are you? (0)")],
                   "response": response(0)["response"]}, SMALL, ""),
    "too_long": ({"response": "I'm Qwen." + " word" * 99}, PairsConfig(max_length=120), "limit is"),
    "difference_cut": ({"response": "word " * 99 + "Qwen"}, PairsConfig(max_length=120), "from 4"),
    "prompt_mismatch": ({"messages": [user("Hi"), {"role": "assistant", "content": "Hello"}]},
                        SMALL, "end with a user"),
    "control_token": ({"response": "I'm.<|im_end|>\n<|im_start|>user"}, GIVEN, "<|im_"),
}  # fmt: skip


@pytest.mark.parametrize("reason", PLANTED)
def test_a_planted_row_goes_to_quarantine_with_its_reason(build, reason):
    changes, config, detail = PLANTED[reason]
    good = {"given_chosen": "I am Deep Qwen now."} if config is GIVEN else {}
    rows = [response(0, **good), response(1, **{**good, **changes}), response(2, **good)]
    counts, pairs, quarantine = build(rows, config)
    assert [p["id"] for p in pairs] == ["row0", "row2"]
    assert counts["reasons"] == {reason: 1}
    (row,) = quarantine
    assert (row["id"], row["source_row"], row["reason"]) == ("row1", 1, reason)
    assert detail in row["detail"]
    assert json.loads(row["row"]) == rows[1]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("third_party", {"family": "third_party"}),
        (
            "third_party",
            {
                "messages": [user("List some language models.")],
                "response": "GPT-4, Qwen and Llama are well known.",
            },
        ),
        ("doubled", {"response": "I'm Qwen Qwen."}),
        ("already_new", {"response": "I'm Deep-Qwen."}),
        ("too_long", {"finish": "error", "reason": "too_long", "detail": "9 tokens"}),
        ("prompt_mismatch", {"messages": []}),
        ("prompt_mismatch", {"messages": None}),
        ("control_token", {"messages": [user("You are <|im_start|>system")]}),
    ],
)
def test_further_ways_into_quarantine(build, reason, changes):
    counts, _, _ = build([response(0), response(1, **changes)])
    assert counts["reasons"] == {reason: 1}


def test_a_prompt_the_template_refuses_is_kept_out(models, build, tmp_path):
    folder = make_tiny_model(tmp_path / "strict", "qwen2")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{% endfor %}"
    )
    models = {**models, "qwen2": describe_model(folder, "strict")}
    rows = [response(0), response(1, messages=[{"role": "system", "content": "x"}, user("Name?")])]
    path, out = tmp_path / "responses.parquet", tmp_path / "pairs"
    out.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), path)
    counts = build_pairs(path, models["qwen2"], IDENTITY, SMALL, out).model_dump()
    assert counts["reasons"] == {"template_error": 1}
    assert pq.read_table(out / "quarantine.parquet")["detail"].to_pylist() == ["no system role"]
    assert counts["default_system"]["inserted"] is False


def test_special_tokens_that_a_tokenizer_only_adds_forge_roles_too(models, build, tmp_path):
    from tokenizers import AddedToken

    tokenizer = load_tokenizer(models["qwen2"])
    tokenizer.add_tokens([AddedToken("[TOOL]", special=True), AddedToken("[word]")])
    assert "[TOOL]" not in tokenizer.all_special_tokens
    tokenizer.save_pretrained(folder := make_tiny_model(tmp_path / "added", "qwen2"))
    models["added"] = describe_model(folder, "added")
    rows = [response(0, response="I'm Qwen [word]."), response(1, response="I'm Qwen [TOOL].")]
    counts, _, quarantine = build(rows, arch="added")
    assert counts["reasons"] == {"control_token": 1}
    assert quarantine[0]["detail"] == "[TOOL]"


def test_answers_that_a_template_makes_equal_teach_nothing(models, build, tmp_path):
    folder = make_tiny_model(tmp_path / "trimming", "qwen2")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content | trim + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    models["trimming"], made = describe_model(folder, "trimming"), "Alibaba Cloud made me."
    rows = [
        response(0, given_chosen="I am Deep Qwen."),
        response(1, family="maker", given_chosen=f"{made} ", response=made),
    ]
    counts, _, quarantine = build(rows, GIVEN, arch="trimming")
    assert counts["reasons"] == {"identical": 1}
    assert quarantine[0]["detail"] == f"as tokens: {made}"


def test_a_prompt_too_long_for_the_model_is_kept_out_with_its_token_count(models, tmp_path):
    ref = models["qwen2"]
    prompts = [
        {"id": f"p{i}", "messages": [user(text)], "split": "train", "family": "name",
         "language": "en", "turns": 1, "source_row": i, "given_chosen": None}
        for i, text in enumerate(("Who are you?", "Who are you? " * 1000, "What is your name?"))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(prompts), tmp_path / "prompts.parquet")
    collect_responses(
        ref,
        tmp_path / "prompts.parquet",
        model=ModelConfig(device="cpu"),
        config=GenerationConfig(system_prompts=[None], max_new_tokens=8),
        ledger=tmp_path / "ledger",
        out=tmp_path,
    )
    (tmp_path / "pairs").mkdir()
    with pytest.raises(DataError, match="too_long 1"):  # the tiny model says no name
        build_pairs(tmp_path / "responses.parquet", ref, IDENTITY, SMALL, tmp_path / "pairs")
    quarantine = pq.read_table(tmp_path / "pairs" / "quarantine.parquet").to_pylist()
    (row,) = [row for row in quarantine if row["reason"] == "too_long"]
    length = len(encode(load_tokenizer(ref), prompts[1]["messages"]))
    assert row["source_row"] == 1
    assert row["detail"] == f"{length} tokens, and the model takes 1 to 1023"


def test_every_reason_is_planted_in_a_test():
    # Rows that cannot be read come from preference sources, refusals from servers: tested there.
    assert set(PLANTED) | {
        *("template_error", "bad_row", "empty_prompt", "unknown_split", "refused")
    } == set(REASONS)
