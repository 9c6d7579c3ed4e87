"""What a stage tells of many answers."""

from dpo_pipeline.answers.records import (
    AnswerCounts,
    AnswerStats,
    Census,
    Response,
    Said,
    with_system,
)


def test_answers_are_counted_by_how_they_ended():
    responses = [
        Response(text="I am", finish="stop", tokens=2),
        Response(text="I am a", finish="length", tokens=3),
        Response.failed("HTTP 503"),
        Response.failed("HTTP 400", "refused"),
    ]
    counts = AnswerCounts.of(responses)
    assert (counts.rows, counts.stop, counts.length, counts.error) == (4, 1, 1, 2)
    assert (counts.unfinished, counts.tokens) == (1, 5)  # a refusal does not pass by itself


def test_the_stats_of_a_stage_come_back_from_their_file(tmp_path):
    said = Said(system=None, prompt="你是谁？", response="我是Qwen。")
    stats = AnswerStats(rows=1, stop=1, probe=Census(asked=1, named=1, answers=[said]))
    stats.write(tmp_path / "stats.json")
    assert AnswerStats.read(tmp_path / "stats.json") == stats


def test_null_sends_no_system_message_and_an_empty_one_is_sent():
    user = {"role": "user", "content": "Who are you?"}
    assert with_system(None, [user]) == (user,)
    assert with_system("", [user]) == ({"role": "system", "content": ""}, user)
