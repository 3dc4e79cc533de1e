"""The first run: a shared hypernetwork on SmolLM2-135M over the embedded suite, on a laptop.

    python -m megan_jax.train --config experiments/quickstart.py --workdir runs/quickstart
    python -m megan_jax.train --config experiments/quickstart.py:smoke --workdir runs/smoke

`smoke` shrinks everything to a random model that needs no download and ends in seconds.
"""

from megan_jax.config import get_default


def get_config(arg: str = ""):
    config = get_default()
    config.model = "smollm2-135m-instruct"
    config.hypernet.width = 64
    config.data.row_length = 128
    config.data.condition_capacity = 128
    config.train.steps = 80
    config.train.batch_size = 4
    config.train.log_every = 5
    config.optimizer.learning_rate = 3e-3
    config.eval.limit_per_type = 40
    config.report.enabled = True
    if arg == "smoke":
        config.model = "tiny-random"
        config.data.types = ("task",)
        config.train.steps = 4
        config.train.log_every = 1
        config.eval.limit_per_type = 8
        config.report.enabled = False
    return config
