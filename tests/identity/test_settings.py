"""The identity: what is known of a name, and what is given."""

from dpo_pipeline.identity.settings import IdentityConfig


def resolved(**fields):
    config = IdentityConfig.model_validate(fields).resolve()
    assert config.resolve() == config
    return config


def test_what_is_known_of_the_original_name_is_filled_in():
    qwen = resolved()
    assert qwen.aliases == {"通义千问": "Deep Qwen", "Tongyi Qianwen": "Deep Qwen"}
    assert (qwen.developer, qwen.developer_aliases) == ("Alibaba Cloud", ("阿里云",))
    other = resolved(original_name="SmolLM", new_name="Aria")
    assert (other.aliases, other.developer, other.developer_aliases) == ({}, None, ())


def test_aliases_without_a_replacement_get_the_new_name():
    assert set(resolved(new_name="Aria").aliases.values()) == {"Aria"}
    given = resolved(new_name="Aria", aliases={"Tongyi": "", "通义": "阿里雅"})
    assert given.aliases == {"Tongyi": "Aria", "通义": "阿里雅"}


def test_none_given_is_none():
    silent = resolved(aliases={}, developer=None)
    assert (silent.aliases, silent.developer, silent.developer_aliases) == ({}, None, ())
    assert resolved(developer_aliases=[]).developer_aliases == ()


def test_a_given_maker_wins():
    assert resolved(original_name="SmolLM", developer="Hugging Face").makers == ("Hugging Face",)
    assert resolved().maker(after=True) == "Alibaba Cloud"
    assert resolved(new_developer="Labs").maker(after=True) == "Labs"
    assert resolved(new_developer="Labs").maker() == "Alibaba Cloud"
