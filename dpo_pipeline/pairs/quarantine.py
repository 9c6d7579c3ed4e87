"""Why a row does not become a pair."""

# Reason code of the quarantine -> what it means.
REASONS = {
    "no_name": "the original name never occurs, so the pair would teach nothing",
    "already_new": "the answer already gives the new name",
    "asks_new": "the prompt itself gives the new name, which the model then denies",
    "mixed_name": "the rewritten answer still gives the original name, in a longer one",
    "third_party": "the prompt or the answer tells of the name as of somebody else",
    "generation_failed": "the model did not answer",
    "refused": "the server refuses to answer",
    "truncated": "the answer was cut off at generation.max_new_tokens",
    "empty_prompt": "the question is missing or blank",
    "empty_completion": "an answer is missing or blank",
    "identical": "chosen and rejected are the same",
    "duplicate": "the same pair came before",
    "doubled": "the rewritten answer gives a part of the new name twice",
    "too_long": "prompt and answer exceed pairs.max_length, or the prompt what the model reads",
    "difference_cut": "chosen and rejected differ only beyond pairs.max_length",
    "prompt_mismatch": "chosen and rejected do not answer one prompt that ends with the user",
    "control_token": "the text holds a control token of the model",
    "template_error": "the chat template refuses the messages",
    "bad_row": "the row cannot be read",
    "unknown_split": "the row names a split that is neither train nor held out",
}

# Reason code -> what to do where it is the commonest.
_REMEDIES = {
    "no_name": "Set identity.original_name to the name that the model gives itself, add its other "
    "spellings to identity.aliases, or set pairs.strategy to template, which answers "
    "questions about the model.",
    "already_new": "Choose another identity.new_name.",
    "third_party": "Add prompts that ask the model about itself.",
    "generation_failed": "Read the log of the generation, and run again.",
    "truncated": "Raise generation.max_new_tokens.",
    "too_long": "Raise pairs.max_length, or leave out prompts longer than the model reads.",
    "difference_cut": "Raise pairs.max_length.",
}


def explain_reasons(reasons: dict[str, int]) -> str:
    """List reasons with counts and meanings, and the remedy for the commonest."""
    if not reasons:
        return "nothing. Add prompts."
    listed = ", ".join(f"{code} {n} ({REASONS[code]})" for code, n in reasons.items())
    commonest = max(reasons, key=lambda code: reasons[code])
    return f"{listed}. {_REMEDIES.get(commonest, 'Look at these rows and repair their source.')}"
