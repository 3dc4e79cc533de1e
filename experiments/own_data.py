"""A hypernetwork for your own model and data, to be set on the command line.

    python -m megan_jax.train --config experiments/own_data.py --workdir runs/mine \\
        --config.model=MODEL --config.data.train=train.jsonl --config.data.eval=valid.jsonl

MODEL is a Hugging Face Llama folder, a GGUF file or a MeGan checkpoint; docs/data.md has the format
of the data. Prompts are written with the model's own chat template.
"""

from megan_jax.config import get_default


def get_config(arg: str = ""):
    config = get_default()
    config.data.row_length = 512
    config.data.condition_capacity = 256
    config.train.steps = 1000
    config.train.batch_size = 8
    config.train.remat = "full"
    config.train.eval_every = 200
    config.optimizer.learning_rate = 1e-3
    config.report.enabled = True
    return config
