"""What a model knows before training, when it only has to choose among the known labels.

    score(label) = mean over the label's tokens of log p(token | prompt, the label's earlier tokens)

Labels that begin alike share their first tokens, and one forward pass reads all of them behind one
prompt: each token sees the prompt and the earlier tokens of its own label, nothing else.

    turn on the lamp ->  Hass  Turn        predicts On, Off
                               Media       predicts Next, Previous
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from qlora.objective import head_weight

Tokens = tuple[int, ...]


class LabelTree:
    """Labels as tokens, and the beginnings that they share.

    `beginnings` are what a forward pass reads: each distinct label without its last token, its last
    two ..., the last token being only predicted. `sees[i, j]`: beginning j is part of beginning i.
    """

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        """Sort the beginnings out once, for all prompts."""
        self.labels = [tuple(label) for label in labels]
        parts = {label[:size] for label in self.labels for size in range(1, len(label))}
        self.beginnings: list[Tokens] = sorted(parts, key=lambda part: (len(part), part))
        self.sees = torch.tensor(
            [
                [late[: len(early)] == early for early in self.beginnings]
                for late in self.beginnings
            ],
            dtype=torch.bool,
        ).reshape(len(parts), len(parts))


def label_scores(model: PreTrainedModel, prompt: Sequence[int], tree: LabelTree) -> Tensor:
    """Scores [labels] of every label of `tree` behind `prompt` (token ids, not empty)."""
    size, count = len(prompt), len(tree.beginnings)
    sees = torch.ones(size + count, size + count, dtype=torch.bool).tril()
    sees[size:, size:] = tree.sees
    depths = [size - 1 + len(beginning) for beginning in tree.beginnings]
    inputs = torch.tensor([[*prompt, *(beginning[-1] for beginning in tree.beginnings)]])
    with torch.no_grad():
        hidden = model.base_model(
            input_ids=inputs.to(model.device),
            position_ids=torch.tensor([[*range(size), *depths]], device=model.device),
            attention_mask=_added(sees, model)[None, None],
            use_cache=False,
        ).last_hidden_state[0, size - 1 :]  # the prompt's last token, then the beginnings
        log_p = functional.linear(hidden, head_weight(model)).float().log_softmax(-1)
    row = {beginning: place for place, beginning in enumerate([(), *tree.beginnings])}
    means = [
        torch.stack([log_p[row[label[:at]], token] for at, token in enumerate(label)]).mean()
        for label in tree.labels
    ]
    return torch.stack(means)


def _added(sees: Tensor, model: PreTrainedModel) -> Tensor:
    """The mask in the form that every attention implementation adds to its scores."""
    mask = torch.zeros(sees.shape, dtype=model.dtype)
    return mask.masked_fill(~sees, torch.finfo(model.dtype).min).to(model.device)
