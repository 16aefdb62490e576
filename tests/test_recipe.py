"""The recipe: what it accepts, what it refuses and how it says so."""

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from penala.errors import RecipeError
from penala.inputs import PIPELINE, component_inputs, used_inputs
from penala.recipe import (
    FOR_LORA,
    SAID_ELSEWHERE,
    Recipe,
    finetuning_inputs,
    json_schema,
    resolve_finetuning,
    share_of,
)

SMALL = {"base_model": "SmolLM2-135M-Instruct", "conversations": {"train": "train.jsonl"}}


def write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False), encoding="utf-8")
    return path


def test_two_keys_are_a_recipe(tmp_path):
    """base_model and conversations.train are enough; the model takes the folder's name."""
    recipe = Recipe.load(write(tmp_path))

    assert recipe.conversations.on_bad_row == "error"
    assert recipe.path("train.jsonl") == tmp_path / "train.jsonl"
    assert recipe.model_name == tmp_path.name


def test_the_template_is_a_recipe(tmp_path):
    """What `recipe init` writes loads as it stands."""
    from importlib.resources import files

    path = tmp_path / "recipe.yaml"
    path.write_text((files("penala") / "recipe.template.yaml").read_text(encoding="utf-8"), encoding="utf-8")

    assert Recipe.load(path).endpoint.name == "my-model"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_modell": "x"}, r"recipe.yaml:4: base_modell: unknown key; did you mean 'base_model'\?"),
        (
            {"conversations": {"train": "a", "shema": "x"}},
            r":4: conversations.shema: unknown key; did you mean 'schema'",
        ),
        ({"conversations": {}}, r"recipe.yaml:2: conversations.train: is missing"),
        ({"finetuning": {"lora_rank": 8}}, r"recipe.yaml:5: finetuning.lora_rank: is no input"),
        ({"finetuning": {"lora_rr": 8}}, r"did you mean 'lora_r'\?"),
        ({"finetuning": {"lora_r": "eight"}}, r"finetuning.lora_r: is 'eight'; use a whole number"),
        ({"finetuning": {"num_train_epochs": 0}}, r"finetuning.num_train_epochs: is 0; use 1 or more"),
        ({"finetuning": {"lr_scheduler_type": "cosin"}}, r"did you mean 'cosine'\?"),
        ({"finetuning": {"learning_rate": 0}}, r"finetuning.learning_rate: is 0.0; use a number above 0"),
        ({"finetuning": {"apply_lora": False, "lora_r": 4}}, r"finetuning.apply_lora: is false beside lora_r"),
        ({"finetuning": {"train_file_path": "x"}}, r"is not set here; say it under conversations.train"),
        ({"finetuning": {"compute_finetune": "x"}}, r"is a compute, data or task input"),
        ({"conversations": {"train": "a", "validation": "100%"}}, r"conversations.validation: 100% leaves nothing"),
        (
            {"conversations": {"train": "a", "test": 10}},
            r"conversations.test: is 10, .*a share of train is written 10%",
        ),
        (
            {"conversations": {"train": "a", "validation": False}},
            r"validation: is False, which is no text in YAML; a share of train is written 10%, and no such rows none",
        ),
        ({"conversations": "a"}, r"conversations: is 'a', and holds no keys; write its keys below it, .*: train, val"),
        ({"lora_r": 8}, r"lora_r: unknown key; did you mean 'finetuning.lora_r'\?"),
        ({"endpoint": {"name": "a_b"}}, r"endpoint.name: is 'a_b', .*; use 3 to 32 letters, digits and '-'"),
        ({"model": {"name": "x", "version": 2}}, r"model.version: is 2, which is no text in YAML; put it into quotes"),
        ({"model": {"name": "x", "tags": {"since": date(2026, 1, 2)}}}, r"tags.since: is 2026-01-02, which is no text"),
        ({"model": {"name": None}}, r"model.name: input should be a valid string \(it is None\)"),
        ({"sample": {"file": "x"}}, r"sample is scored at the endpoint; add `endpoint"),
        ({"base_model": 3}, r"recipe.yaml:1: base_model: name a base model"),
        ({"azureml": {"subscription_id": "x"}}, r"azureml: no resource_group and no workspace_name; give all three"),
        ({"azureml": {"compute": {"name": "a_b", "size": "x"}}}, r"azureml.compute.name"),
    ],
)
def test_a_refused_recipe_names_the_line_the_key_and_the_way_out(tmp_path, changes, message):
    """A typo or a wrong value costs one message that says where it is and what to write instead."""
    with pytest.raises(RecipeError, match=message):
        Recipe.load(write(tmp_path, **changes))


def test_all_problems_come_at_once(tmp_path):
    """Three typos need one run, not three, whichever part they are in."""
    changes = {"modle": {}, "setings": {}, "finetuning": {"lora_rr": 8}}
    with pytest.raises(RecipeError, match=r"(?s)3 problems.*modle.*setings.*did you mean 'lora_r'"):
        Recipe.load(write(tmp_path, **changes))
    with pytest.raises(RecipeError, match=r"recipe.yaml:5: finetuning.1.*is 1, which is no text"):
        Recipe.load(write(tmp_path, finetuning={1: 2}))


def test_a_version_behind_set_is_text(tmp_path):
    """A shell eats the quotes of "2"."""
    recipe = write(tmp_path, model={"name": "kopi", "version": "1"})

    assert Recipe.load(recipe, ["model.version=2"]).model.version == "2"
    assert Recipe.load(recipe, ["model.version=null"]).model.version is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # a bracket that is never closed
        ("base_model: x\nconversations: {train: [\n", r"recipe.yaml:\d+: is not YAML"),
        # YAML would take the last one without a word
        (
            "base_model: x\nconversations: {train: a}\nfinetuning:\n  lora_r: 8\n  lora_r: 16\n",
            r"recipe.yaml:5: finetuning.lora_r stands in line 4 already; keep one",
        ),
        # an alias may stand within its own anchor
        ("base_model: x\nconversations: &c {train: a, columns: *c}\n", r"recipe.yaml: holds itself by an alias"),
    ],
)
def test_a_file_that_is_no_recipe_names_the_place(tmp_path, text, message):
    """By line, where one is to blame."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(RecipeError, match=message):
        Recipe.load(path)


def test_what_looks_like_a_date_and_is_none_is_refused_or_text(tmp_path):
    """YAML's own reader fails for month 13: in a file that is a refusal, behind --set the text is meant."""
    path = tmp_path / "recipe.yaml"
    path.write_text("base_model: x\nconversations: {train: 2024-13-45}\n", encoding="utf-8")

    with pytest.raises(RecipeError, match=r"recipe.yaml: is not YAML: month must be in 1..12"):
        Recipe.load(path)
    assert Recipe.load(write(tmp_path), ["base_model=2024-13-45"]).base_model == "2024-13-45"


def test_a_missing_recipe_says_how_to_write_one(tmp_path):
    """The first command of a newcomer without a recipe leads to `recipe init`."""
    with pytest.raises(RecipeError, match="no such recipe; `penala recipe init` writes one"):
        Recipe.load(tmp_path / "none.yaml")


def test_overrides_win_over_the_file(tmp_path):
    """--set takes dotted keys and YAML values."""
    recipe = Recipe.load(
        write(tmp_path, finetuning={"lora_r": 8}), ["finetuning.lora_r=4", "settings.force_rerun=true"]
    )

    assert recipe.finetuning == {"lora_r": 4}
    assert recipe.settings.force_rerun is True


def test_an_override_without_a_value_is_refused(tmp_path):
    """--set lora_r is no assignment."""
    with pytest.raises(RecipeError, match="is not KEY=VALUE"):
        Recipe.load(write(tmp_path), ["lora_r"])


@pytest.mark.parametrize("name", sorted(component_inputs(PIPELINE)))
def test_each_input_is_used_or_refused_by_name(name):
    """A recipe can set an input that a step takes; every other one is refused with its name."""
    from penala.recipe import finetuning_problems

    spec = component_inputs(PIPELINE)[name]
    other = next((value for value in spec.enum if value != spec.default), None) or (7 if spec.type != "string" else "x")
    problems = [str(problem) for problem in finetuning_problems({name: other})]

    used = name in finetuning_inputs() and name in used_inputs()
    if used:
        assert problems == []
    else:
        assert len(problems) == 1
        assert f"finetuning.{name}" in problems[0]
        if name in SAID_ELSEWHERE:
            assert SAID_ELSEWHERE[name] in problems[0]


def test_the_user_wins_over_the_model_the_model_over_penala_penala_over_the_component():
    """The four sources in their order."""
    settings, notes = resolve_finetuning({"lora_r": 4}, {"lora_r": 6, "learning_rate": "5e-6", "deepspeed_stage": 2})
    by_name = {setting.name: (setting.value, setting.source) for setting in settings}

    assert by_name["lora_r"] == (4, "you")
    assert by_name["learning_rate"] == (5e-6, "model")
    assert by_name["deepspeed_stage"] == ("2", "model")
    assert by_name["lora_alpha"] == (32, "penala")
    assert by_name["seed"] == (42, "component")
    assert notes == []


def test_a_model_default_that_no_component_declares_is_named_and_skipped():
    """The trap of the tutorial's 2025 tags does not crash here."""
    _, notes = resolve_finetuning({}, {"learning_rate_min": 5e-7, "learning_rate_maximum": 1, "optim": "adafactor"})

    assert any("learning_rate_maximum" in note and "skipped" in note for note in notes)
    assert any("optim = adafactor" in note for note in notes)


@pytest.mark.parametrize(("given", "model"), [({"apply_lora": False}, {}), ({}, {"apply_lora": "false"})])
def test_lora_s_defaults_are_not_those_of_all_weights(given, model):
    """A learning rate for an adapter is ten times too high where all weights are trained."""
    settings, _ = resolve_finetuning(given, model)

    assert {setting.source for setting in settings if setting.name in FOR_LORA} == {"component"}


def test_a_learning_rate_outside_the_bounds_is_said_and_runs():
    """All three numbers are in the warning, and the user's value stays."""
    settings, notes = resolve_finetuning(
        {"learning_rate": 1e-3}, {"learning_rate_min": 5e-7, "learning_rate_max": 5e-5}
    )

    assert notes == ["warning: learning_rate 0.001 is outside the model publisher's 5e-07 to 5e-05; yours runs"]
    assert next(setting.value for setting in settings if setting.name == "learning_rate") == 1e-3


def test_the_schema_knows_every_finetuning_input():
    """An editor completes the same names that the recipe accepts."""
    schema = json_schema()

    assert set(schema["properties"]["finetuning"]["properties"]) == set(finetuning_inputs())
    assert json.dumps(schema)


@pytest.mark.parametrize(
    ("text", "share"), [("10%", 0.1), ("2.5 %", 0.025), ("none", None), ("data/x.jsonl", None), (None, None)]
)
def test_a_share_is_a_number_with_a_percent_sign(text, share):
    """Everything else is a path or none."""
    assert share_of(text) == share
