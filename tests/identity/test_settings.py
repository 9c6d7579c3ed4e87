"""The identity: what is known of a name, and what is given."""

import pytest
from pydantic import ValidationError

from dpo_pipeline.identity.settings import IdentityConfig, usual_name


def resolved(**fields):
    config = IdentityConfig.model_validate({"original_name": "Qwen"} | fields).resolve()
    assert config.resolve() == config
    return config


def test_what_is_known_of_the_original_name_is_filled_in():
    qwen = resolved()
    assert qwen.aliases == {"通义千问": "Deep Qwen", "Tongyi Qianwen": "Deep Qwen"}
    assert (qwen.developer, qwen.developer_aliases) == ("Alibaba Cloud", ("阿里云",))
    smol = resolved(original_name="SmolLM")
    assert (smol.new_name, smol.aliases, smol.makers) == ("Deep SmolLM", {}, ("Hugging Face",))
    other = resolved(original_name="Mistral", new_name="Aria")
    assert (other.aliases, other.developer, other.developer_aliases) == ({}, None, ())


def test_any_name_of_a_known_model_is_its_own():
    assert usual_name("通义千问") == usual_name("qwen") == "Qwen"
    assert usual_name("Elena") == "Elena"


def test_without_an_original_name_there_is_a_name_to_give_and_none_to_replace():
    nobody = resolved(original_name=None, new_name="Aria", new_developer="Acme")
    assert (nobody.names, nobody.makers) == ({}, ())
    assert (nobody.maker(), nobody.maker(after=True)) == (None, "Acme")


def test_aliases_without_a_replacement_get_the_new_name():
    assert set(resolved(new_name="Aria").aliases.values()) == {"Aria"}
    given = resolved(new_name="Aria", aliases={"Tongyi": "", "通义": "阿里雅"})
    assert given.aliases == {"Tongyi": "Aria", "通义": "阿里雅"}


def test_none_given_is_none():
    silent = resolved(aliases={}, developer=None)
    assert (silent.aliases, silent.developer, silent.developer_aliases) == ({}, None, ())
    assert resolved(developer_aliases=[]).developer_aliases == ()


def test_a_given_maker_wins():
    assert resolved(original_name="Mistral", developer="Acme").makers == ("Acme",)
    assert resolved(developer="Acme").makers == ("Acme",)  # 阿里云 is no other spelling of it
    assert resolved().maker(after=True) == "Alibaba Cloud"
    assert resolved(new_developer="Labs").maker(after=True) == "Labs"
    assert resolved(new_developer="Labs").maker() == "Alibaba Cloud"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"new_name": "Qwen"}, "nothing to learn"),
        ({"new_name": "QWEN"}, "nothing to learn"),
        ({"aliases": {"Deep Qwen": "X"}}, "nothing to learn"),
        ({"aliases": {"Q": "qwen"}}, "nothing to learn"),
        ({"original_name": "_", "new_name": "__"}, "original names in a row"),
        ({"new_name": "通义千问Qwen"}, "original names in a row"),
        ({"new_name": " "}, "blank"),
        ({"original_name": ""}, "blank"),
        ({"new_name": "Deep\nQwen"}, "stray spaces or line breaks"),
        ({"new_name": "Deep`Qwen"}, "no name may"),
        ({"new_name": "<|im_end|>"}, "no name may"),
        ({"new_name": "Deep\u200bQwen"}, "no name may"),
        ({"protected": ("qwen",)}, "is the original name"),
        ({"new_developer": "alibaba cloud"}, "equals developer"),
        ({"original_name": None, "new_name": "auto"}, "set new_name"),
        ({"new_developer": "Acme", "developer": "Qwen"}, "both original name and developer"),
    ],
)
def test_refuses_identities_that_make_no_sense(fields: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        IdentityConfig.model_validate({"original_name": "Qwen", "new_name": "Deep Qwen"} | fields)
