"""The first run: a shared hypernetwork on SmolLM2-135M over the embedded suite, on a laptop.

    python -m megan_jax.train --config experiments/quickstart.py --workdir runs/quickstart
    python -m megan_jax.train --config experiments/quickstart.py:smoke --workdir runs/smoke

`smoke` shrinks everything to a random model that needs no download and ends in seconds.
"""

from megan_jax.config import get_default

# Conditions that contrast, few enough that some 1,000 examples show each of them often.
CONDITIONS = (
    "chain_sum",
    "number_sorting/ascending",
    "number_sorting/descending",
    "word_sorting/ascending",
    "word_sequence_reversal",
    "spell_backward",
    "calendar_arithmetic/weekday",
    "calendar_arithmetic/is_leap_year",
    "Geography",
    "Military and Security",
    "Government",
    "Environment",
    "one-line-review",
    "milton-verse",
    "almanac",
    "headline",
    "romeo_and_juliet/Nurse",
    "merry_wives_of_windsor/CAIUS",
    "henry_iv_part_1/PRINCE",
    "henry_iv_part_1/HOT",
    "positive",
    "negative",
)


def get_config(arg: str = ""):
    config = get_default()
    config.model = "smollm2-135m-instruct"
    # The model's own template begins every prompt with the same 25 tokens of a system message.
    config.tokenizer.chat_template = "chatml"
    config.hypernet.width = 64
    config.data.types = ("task", "domain", "style", "persona", "sentiment")
    config.data.conditions = CONDITIONS
    config.data.type_weights = (1.0, 1.0, 1.0, 0.3, 0.3)
    config.data.row_length = 128
    config.data.condition_capacity = 128
    config.train.steps = 160
    config.train.batch_size = 2
    config.train.log_every = 10
    # Unrolled, one step takes about a sixth less time on a CPU.
    config.train.scan_layers = False
    config.optimizer.learning_rate = 2e-3
    config.eval.limit_per_type = 48
    config.eval.answer_limit = 16
    config.report.enabled = True
    if arg == "smoke":
        config.model = "tiny-random"
        config.data.types = ("task",)
        config.data.type_weights = ()
        config.train.steps = 4
        config.train.log_every = 1
        config.eval.limit_per_type = 8
        config.report.enabled = False
    return config
