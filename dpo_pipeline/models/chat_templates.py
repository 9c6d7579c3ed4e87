"""Conversations as the model reads them: chat templates, and the plain format without one."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.limits import render_apart
from dpo_pipeline.models.references import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], bare: bool = False
) -> str:
    """Write the prompt as the model reads it, up to where its answer starts.

    With a chat template that is the template's text. A base model without one gets the
    instruction format of Alpaca: each user turn under "### Instruction:", each answer under
    "### Response:", a system message before them.

    Bare leaves out the block of a system message that the template inserts by itself.
    """
    if tokenizer.chat_template:
        written = _written(tokenizer, messages, start=True)
        return written.replace(default_block(tokenizer) or "", "", 1) if bare else written
    heads = {"user": "### Instruction:\n", "assistant": "### Response:\n"}
    parts = [heads.get(m["role"], "") + m["content"] for m in messages]
    return "\n\n".join([*parts, heads["assistant"]])


def render_pair(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Sequence[Message],
    completions: Sequence[Sequence[Message]],
) -> list[str]:
    """Write the prompt alone, then with each completion, as TRL does before it tokenizes.

    Raises:
        TemplateError: The chat template refuses the messages.
    """
    start = render(tokenizer, prompt)
    if tokenizer.chat_template:
        return [start, *(_written(tokenizer, [*prompt, *messages]) for messages in completions)]
    end = tokenizer.eos_token or ""
    return [start, *(start + messages[0]["content"] + end for messages in completions)]


def encode(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], bare: bool = False
) -> list[int]:
    """Return the token ids of `render`."""
    # A chat template writes its own special tokens; the plain format leaves them to the tokenizer.
    plain = not tokenizer.chat_template
    # Not verbose: callers hold lengths against the model's, and say what comes of it.
    found = tokenizer(render(tokenizer, messages, bare), add_special_tokens=plain, verbose=False)
    return list(found["input_ids"])


def _written(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], start: bool = False
) -> str:
    return render_apart(
        [dict(m) for m in messages],
        chat_template=tokenizer.chat_template,
        add_generation_prompt=start,
        **tokenizer.special_tokens_map,
    )


def end_tokens(ref: ModelRef, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Collect the tokens that end an answer.

    Those of the generation config, the tokenizer's own, and the special token that the chat
    template writes after an answer: the three disagree in many published models.
    """
    from transformers import GenerationConfig

    ends: set[int] = set()
    if (file := ref.path / "generation_config.json").is_file():
        try:
            eos = GenerationConfig.from_pretrained(ref.path, local_files_only=True).eos_token_id
            ends.update([eos] if isinstance(eos, int) else map(index, eos or []))
        except Exception as error:  # of any kind: the file may say anything
            told = f"{type(error).__name__}: {error}"
            raise ModelError(f"{ref.name}: {file} is wrong ({told}): mend it") from error
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        mark = "ANSWER"
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        try:
            end = _written(tokenizer, turns).rpartition(mark)[2]
        except TemplateError:
            end = ""  # a template that does not write answers has no token after them
        after = tokenizer(end, add_special_tokens=False)["input_ids"]
        special = tokenizer.added_tokens_decoder
        if after and after[0] in special and special[after[0]].special:
            ends.add(after[0])
    if not ends:
        raise ModelError(f"{ref.name}: neither generation_config.json nor its tokenizer names an "
                         "end token; set eos_token in tokenizer_config.json")  # fmt: skip
    return tuple(sorted(ends))


def default_system(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return the system message that the chat template inserts where none is sent, if any."""
    if not tokenizer.chat_template:
        return None
    mark, user = "\x02system\x03", {"role": "user", "content": "\x02user\x03"}
    try:
        sent = _written(tokenizer, [{"role": "system", "content": mark}, user])
        unsent = _written(tokenizer, [user])
    except TemplateError:  # a template that takes no system message inserts none
        return None
    before, _, after = sent.partition(mark)
    if not (after and unsent.startswith(before) and unsent.endswith(after)):
        return None
    return unsent[len(before) : len(unsent) - len(after)] or None


def default_block(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return all that the chat template writes before the first turn where no system is sent.

    The token that begins every text is not part of it. Null where no system message is inserted,
    or where it stands inside the user's turn.
    """
    if not default_system(tokenizer):
        return None
    asked, said = "\x02user\x03", "\x02assistant\x03"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    try:
        start = _written(tokenizer, turns[:1]).partition(asked)[0]
        ended = _written(tokenizer, turns).partition(said)[2]
        followed = _written(tokenizer, [*turns, turns[0]]).partition(said)[2]
    except TemplateError:
        return None
    opening = followed.removeprefix(ended).partition(asked)[0]
    if not (opening and start.endswith(opening)):
        return None
    begin = str(tokenizer.bos_token or "")
    return start.removesuffix(opening).removeprefix("" if opening.startswith(begin) else begin)
