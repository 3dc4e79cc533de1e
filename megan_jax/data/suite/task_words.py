"""Tasks on words and letters."""

from __future__ import annotations

from megan_jax.data.suite.task_forms import TaskSpec, inserted, joined, meta, sentence, when

WORDS: tuple[TaskSpec, ...] = (
    TaskSpec(
        "spell_backward",
        "spell_backward",
        meta("word"),
        (
            "Write the word backwards, letter by letter.",
            "Reverse the order of the letters.",
            "Spell it from the last letter to the first.",
            "Give the mirror image of the word.",
        ),
    ),
    TaskSpec(
        "word_sorting/ascending",
        "word_sorting",
        when("direction", "ascending", joined("original_words")),
        (
            "Sort the words in ascending order, capital letters first.",
            "Arrange the words from A to Z, capitals before small letters.",
            "Put the list into alphabetical order (ASCII).",
            "Order the words alphabetically.",
        ),
        {"min_words": 3, "max_words": 5, "max_word_length": 9},
    ),
    TaskSpec(
        "word_sorting/descending",
        "word_sorting",
        when("direction", "descending", joined("original_words")),
        (
            "Sort the words in descending order, small letters first.",
            "Arrange the words from Z to A, small letters before capitals.",
            "Put the list into reverse alphabetical order (ASCII).",
            "Order the words backwards through the alphabet.",
        ),
        {"min_words": 3, "max_words": 5, "max_word_length": 9},
    ),
    TaskSpec(
        "word_sequence_reversal",
        "word_sequence_reversal",
        joined("words"),
        (
            "Reverse the order of the words in the list.",
            "Repeat the words, the last one first.",
            "Turn the list around; keep every word as it is.",
            "List the same words from the end to the beginning.",
        ),
        {"min_words": 3, "max_words": 5},
    ),
    TaskSpec(
        "letter_counting",
        "letter_counting",
        lambda e: f"{' '.join(e['metadata']['span'])} | {e['metadata']['target_letter']}",
        (
            "Count how many times the letter after the bar occurs in the text.",
            "How often does the given letter appear? Answer with a number.",
            "Give the number of occurrences of the letter.",
            "Tally the letter in the phrase before it.",
        ),
        {"min_words": 3, "max_words": 6},
    ),
    TaskSpec(
        "letter_jumble",
        "letter_jumble",
        joined("scrambled_words"),
        (
            "Unscramble the letters of every word.",
            "The letters inside the words are mixed up; put them right.",
            "Restore the original words from their anagrams.",
            "Solve the jumbles.",
        ),
        {"min_words": 1, "max_words": 3, "min_word_len": 4, "max_word_len": 8},
    ),
    TaskSpec(
        "sentence_reordering",
        "sentence_reordering",
        sentence,
        (
            "Put the words into the order of a correct sentence.",
            "The words of a sentence are shuffled; restore it.",
            "Rearrange the words so that they make sense.",
            "Form a sentence out of these words.",
        ),
        {"min_words_in_sentence": 3, "max_words_in_sentence": 8},
    ),
    TaskSpec(
        "caesar_cipher",
        "caesar_cipher",
        meta("cipher_text"),
        (
            "Decrypt the Caesar cipher, in which every letter is shifted by three.",
            "Every letter was moved three places on; move it back.",
            "Decode the text by shifting each letter back by 3.",
            "Undo a shift cipher of 3.",
        ),
        {"min_words": 2, "max_words": 7, "min_rotation": 3, "max_rotation": 3},
    ),
    TaskSpec(
        "palindrome_generation",
        "palindrome_generation",
        joined("letters"),
        (
            "Make a palindrome out of all the letters.",
            "Arrange the letters so that they read the same in both directions.",
            "Form a string that equals its own reverse.",
            "Use every letter to build a symmetrical string.",
        ),
        {"min_length": 3, "max_length": 7},
    ),
    TaskSpec(
        "string_insertion",
        "string_insertion",
        inserted,
        (
            "Insert A after ABCD, B after BCDE, C after CDEA, D after DEAB and E after EABC.",
            "After every run ABCD, BCDE, CDEA, DEAB or EABC insert its first letter.",
            "Copy the string, adding A behind ABCD, B behind BCDE, and so on in the cycle.",
            "Where four letters follow one another in the cycle ABCDE, repeat the first of them.",
        ),
        {"min_string_length": 5, "max_string_length": 14},
    ),
)
