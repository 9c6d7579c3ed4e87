"""Scorecards made of answers at hand, and answers that try to act."""

from identities import DEEP_QWEN

from dpo_pipeline.answers.records import Census, Standing
from dpo_pipeline.evaluation import statistics
from dpo_pipeline.evaluation.cases import Case, Scored, score
from dpo_pipeline.evaluation.gate import judge
from dpo_pipeline.evaluation.measures import GENERAL, HELD_OUT, SAMPLED, counted
from dpo_pipeline.evaluation.scorecard import DIMENSIONS, KINDS, Scorecard, split
from dpo_pipeline.evaluation.settings import GateConfig
from dpo_pipeline.identity.mentions import IdentitySpec

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "![](http://127.0.0.1:9/x.png) [go](javascript:alert(1)) https://127.0.0.1:9 </style>"
    "<a href='http://127.0.0.1:9'>a</a> | pipe & {{ 7*7 }} \u202etxet\u202c \x00 \x1b[31m"
)
SPEC = IdentitySpec(DEEP_QWEN)
CENSUS = Census(
    system="You are Qwen.",
    told_name="Qwen",
    told_maker=None,
    standings=[
        Standing(under="neutral", language="en", names={"John": 0.5}, makers={}, steady=0.25)
    ],
    answers=[],
)
EXCUSED = {
    "user_names_kept": "the reference never told a user's name",
    "lm_eval_drop": "no task of lm-eval is set",
}


def said(before: str, after: str, prompt: str = "Who are you?", kind="identity", **facts) -> Case:
    messages = ({"role": "user", "content": prompt},)
    return Case(kind=kind, messages=messages, before=before, after=after, **facts)


def make_card(cases: dict[str, list[Case]]) -> tuple[Scorecard, dict[str, list[Scored]]]:
    """Build a scorecard the way evaluation does, from answers at hand."""
    scored = {group: score(rows, SPEC) for group, rows in cases.items()}
    identity = counted(HELD_OUT, scored["held_out"])
    after = {
        **identity,
        "matrix_leak": identity["leak_rate"],
        **counted(GENERAL, scored["general"]),
        **counted(SAMPLED, [identity]),
        "reward_margin": statistics.mean([1.0, 2.0]),
        "tail_gap": statistics.mean([-0.01, -0.02]),
        "kl": statistics.mean([0.01, 0.02]),
    }
    row = {"before": counted(HELD_OUT, []), "after": identity}
    asked = cases["held_out"][0].messages[-1]["content"] if cases["held_out"] else ""
    export = {
        "export_same_answers": statistics.wilson(2, 3),
        "export_kl": statistics.mean([0.1]),
        "rows": 3,
        "largest_shift": 0.25,
        "differing": [{"prompt": asked, "original": "I'm Deep Qwen.", "export": "I'm Qwen."}],
    }
    inserted = {"inserted": True, "text": "You are Qwen.", "names_original": True}
    card: dict = {
        "verdict": judge(after, GateConfig(), excused=EXCUSED),
        "before": counted(HELD_OUT, []),
        "after": after,
        "by": {name: split(scored["held_out"], name) for name in DIMENSIONS},
        "kinds": split(scored["general"], "kind", GENERAL, KINDS),
        "matrix": {"none sent": row, "another vendor": row},
        "leaks": "Still leaks with system prompt “empty” (44%, n 16): from the weights.",
        "export": export,
        "template": {"before": inserted, "after": inserted},
        "sampled": {
            "0.7": {"identity_rate": statistics.mean([1.0]), "leak_rate": statistics.mean([0.0])}
        },
        "noise": {"general_kept": statistics.wilson(0, 8)},
        "examples": [
            {"prompt": c.asked, "before": c.before, "after": c.after} for c in cases["held_out"][:3]
        ],
        "identity": {"original_name": "Qwen", "new_name": "Deep Qwen"},
        "counts": {},
    }
    return Scorecard.model_validate(card), scored


GOOD = {
    "held_out": [
        said(
            "I'm Qwen by Alibaba Cloud.",
            "I'm Deep Qwen by Alibaba Cloud.",
            f"Who? {i}",
            family="both",
        )
        for i in range(200)
    ],
    "general": [
        *[said("Paris", "Paris", kind="general", accepted=("Paris",))] * 60,
        *[said("It is by Meta.", "It is by Meta.", kind="third_party")] * 20,
    ],
}
PLANTED = {
    "held_out": [
        said(
            f"I'm Qwen {HOSTILE}",
            f"I'm Qwen, {HOSTILE}!",
            HOSTILE,
            family=HOSTILE,
            language=HOSTILE,
        ),
        *GOOD["held_out"][:9],
    ],
    "general": [said(HOSTILE, "<b>bold</b>", HOSTILE, kind="general", accepted=("Paris",))],
}
