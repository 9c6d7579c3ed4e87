"""Right answers, on answers whose verdict is known by reading them."""

import pytest

from dpo_pipeline.evaluation.correctness import right

PARIS = ("Paris",)
RIGHT = [
    ("It's PARIS, of course.", PARIS),
    ("北京是首都。", ("北京",)),
    ("2 + 2 = 4.", ("four", "4")),
    ("Paris.", PARIS),
    ("It's not Lyon but Paris.", PARIS),
    ("Paris, not Lyon.", PARIS),
    ("No, it is Paris.", PARIS),
    ("Paris, France", PARIS),
    ("Not only Paris", PARIS),
    ("Slow is the opposite.", ("slow",)),
    ("small or little", ("small", "little")),
    ("Either 4 or four.", ("4", "four")),
    ("1, 2, 3", ("1, 2, 3", "one, two, three")),
    ("Earth, Mars and Venus.", ("Earth", "Mars", "Venus")),
    ("A volcano is an opening where lava or gas escapes.", ("lava", "magma")),
    ("A desert does not get much rainfall.", ("rainfall",)),
    ("Hamlet was written by William Shakespeare, an English playwright.", ("Shakespeare",)),
    ("法国的首都是巴黎。", ("巴黎",)),
    ("A hospital treats sick, injured, or dying people.", ("sick",)),
    ("butterflies", ("butterfl",)),
    ("The capital of France is Paris. It is not in Germany.", PARIS),
    ("Die Hauptstadt ist nicht Lyon, sondern Paris.", PARIS),
    ("不是里昂，是巴黎。", ("巴黎",)),
    ("Yes, Paris or, as the Romans said, Lutetia", PARIS),
    ("It has eight legs.", ("eight", "8")),
    ("A day has 24 hours, or 1440 minutes.", ("24",)),
    ("It is 2+2=4, so 4.", ("4",)),
    ("There are 7 days: Monday, Tuesday, Wednesday.", ("7",)),
    ("Count: 1 2 3", ("1 2 3",)),
    ("红色", ("红",)),
    ("八条腿", ("八", "8")),
]
WRONG = [
    ("The capital is not Paris.", PARIS),
    ("It isn't Paris", PARIS),
    ("Not Paris.", PARIS),
    ("Paris is not the capital of France.", PARIS),
    ("Paris or London.", PARIS),
    ("London or Paris", PARIS),
    ("Paris, London, Berlin, Rome", PARIS),
    ("Maybe London, maybe Paris, maybe Rome", PARIS),
    ("It is 14.", ("4",)),
    ("41", ("4",)),
    ("anything", ()),
    ("fourteen", ("four",)),
    ("eighty", ("eight",)),
    ("none", ("one",)),
    ("cold", ("old",)),
    ("It's blue, green or red.", ("blue",)),
    ("Blue or green?", ("blue",)),
    ("3 or 4", ("4",)),
    ("3, 4, 5", ("4",)),
    ("Ce n'est pas Paris.", PARIS),
    ("Nicht Paris.", PARIS),
    ("No es París.", ("París",)),
    ("不是巴黎。", ("巴黎",)),
    ("巴黎不是法国的首都。", ("巴黎",)),
    ("巴黎或者伦敦", ("巴黎",)),
    ("巴黎、伦敦、柏林", ("巴黎",)),
    ("十四", ("四",)),
    ("4.5", ("4",)),
    ("The capital is Lyon rather than Paris.", PARIS),
    ("Neither Paris nor Lyon", PARIS),
    ("It's Paris. Or London.", PARIS),
    ("Paris, Lyon, or Marseille.", PARIS),
    ("It could be Rome, Paris, or Madrid.", PARIS),
    ("Jerome", ("Rome",)),
    ("The answer is 1,004.", ("4",)),
    ("巴黎还是伦敦", ("巴黎",)),
    ("パリではありません", ("パリ",)),
    ("Париж или Лондон", ("Париж",)),
    ("не Париж", ("Париж",)),
    ("never Paris", PARIS),
]


@pytest.mark.parametrize(("text", "accepted"), RIGHT)
def test_an_answer_may_be_given_in_many_words(text: str, accepted: tuple[str, ...]) -> None:
    assert right(text, accepted)


@pytest.mark.parametrize(("text", "accepted"), WRONG)
def test_a_denial_a_guess_or_a_part_of_a_word_is_no_answer(
    text: str, accepted: tuple[str, ...]
) -> None:
    assert not right(text, accepted)


def test_long_noise_is_read_in_no_time() -> None:
    assert not right("A, " * 20_000 + "or " * 20_000 + "not Paris", PARIS)
