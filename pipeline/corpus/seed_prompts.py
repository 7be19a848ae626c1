"""What the model is asked for about a chunk of a corpus: the seed prompts of self-study.

Their kinds are those of Eyuboglu et al. 2025 (Cartridges, arXiv 2506.06266, section 4.1).
"""

SEED_PROMPTS = {
    "structure": (
        "Write one request to structure information from the text above, for example as a list, a "
        "table or JSON. Name the exact information that is wanted. Write the request alone, "
        "without an answer."
    ),
    "summary": (
        "Write one request to summarise a part of the text above. Name exactly which part or topic "
        "is meant. Write the request alone, without an answer."
    ),
    "question": (
        "Write one question that tests the knowledge of details in the text above. Name the "
        "subject, so that the question can be understood without the text. Write the question "
        "alone, without an answer."
    ),
    "use_case": (
        "Think of a practical task for which somebody needs information from the text above. Write "
        "one question that this person would ask. Write the question alone, without an answer."
    ),
    "creative": (
        "Write one creative question that is inspired by the text above. Write the question alone, "
        "without an answer."
    ),
}
"""The text of each kind; what is asked stands below the chunk."""

SUMMARY = (
    "Summarise the text above in at most {words} words. State its most important facts, names and "
    "figures one after another, without an introduction."
)
"""What is asked for where a corpus is summed up, chunk by chunk."""
