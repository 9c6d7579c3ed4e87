"""The corpus of the starter: what it teaches, and what it must never have seen."""

from shipped import question, words

from dpo_pipeline.starter.corpus import LANGUAGE_SHARE, expand, questions, write_conversations


def shingles(text):
    tokens = words(text)
    return {tokens[i : i + 3] for i in range(max(1, len(tokens) - 2))}


class TestCorpus:
    def test_expand_writes_out_nested_groups(self):
        assert expand("(a|b (c|d)) e") == ["a e", "b c e", "b d e"]

    def test_every_identity_answer_gives_name_and_maker(self):
        for language in LANGUAGE_SHARE:
            for wordings in questions("identity", language):
                assert all("{name}" in a and "{maker}" in a for _, a in wordings)

    def test_same_seed_same_corpus(self):
        assert write_conversations(50, 3) == write_conversations(50, 3)
        assert write_conversations(50, 3) != write_conversations(50, 4)

    def test_a_persona_answers_as_itself(self):
        for system, *turns in write_conversations(400, 0):
            if "Nova" in system["content"]:
                answers = [t["content"] for t in turns if t["role"] == "assistant"]
                assert not any("I am Qwen" in answer for answer in answers)


class TestSplit:
    def test_no_held_out_wording_is_trained_on(self, identity, taught):
        trained = {question(row) for row in identity if row["split"] == "train"} | taught
        padded = {f" {' '.join(words(text))} " for text in trained}
        for row in identity:
            if row["split"] == "held_out":
                held_out = f" {' '.join(words(question(row)))} "
                # Two words say nothing alone: "your name" is in every question.
                inside = [text for text in padded if text in held_out and text.count(" ") > 3]
                around = [text for text in padded if held_out in text]
                assert not inside + around, (question(row), inside + around)

    def test_no_held_out_prompt_is_nearly_trained_on(self, identity, taught):
        trained = [shingles(question(row)) for row in identity if row["split"] == "train"]
        trained += [shingles(text) for text in taught]
        for row in identity:
            if row["split"] == "held_out":
                mine = shingles(question(row))
                assert all(len(mine & other) / len(mine | other) < 0.8 for other in trained)


class TestGeneralQuestions:
    def test_taught_answers_are_accepted(self, general):
        answers = {
            q: a.format(name="Qwen", maker="Alibaba Cloud")
            for lang in LANGUAGE_SHARE
            for wordings in questions("general", lang)
            for q, a in wordings
        }
        wrong = [
            row["prompt"]
            for row in general
            if row["prompt"] in answers
            and not any(a.lower() in answers[row["prompt"]].lower() for a in row["answers"])
        ]
        assert wrong == []

    def test_some_wordings_are_never_taught(self, general, taught):
        assert sum(row["prompt"] not in taught for row in general) >= 10
