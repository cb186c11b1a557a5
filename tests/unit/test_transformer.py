"""The transformer: counted right, causal, the same for equal seeds, and the same when it recomputes."""

from __future__ import annotations

import pytest
import torch

from ryzen_mpi.model import transformer
from ryzen_mpi.model.transformer import Transformer, parameter_count
from ryzen_mpi.settings import load_settings

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    "model.embedding_dim=16", "model.num_heads=2", "model.num_layers=2", "model.feed_forward_dim=24",
    "model.seq_length=10", "model.vocab_size=300", "hardware.dtype=float64",
)  # fmt: skip


def tiny(*overrides: str):
    return load_settings("default", [*TINY, *overrides], {})


def built(*overrides: str, seed: int = 1) -> Transformer:
    model = Transformer(tiny(*overrides)).double()
    model.initialise(seed)
    return model


def batch(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randint(300, (rows, 11), generator=torch.Generator().manual_seed(3))
    return drawn[:, :-1], drawn[:, 1:]


def trained(model: Transformer, tokens, targets, keys, scale=0.01) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, _ = model(tokens, targets, scale, keys)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", ["true", "false"])
def test_the_parameter_count_is_that_of_the_model_built(tied):
    override = f"model.tied_head={tied}"
    by_hand = 300 * 16 * (1 if tied == "true" else 2) + 10 * 16 + 2 * (4 * 16 * 16 + 2 * 16 * 24 + 2 * 16) + 16
    assert parameter_count(tiny(override)) == sum(p.numel() for p in built(override).parameters()) == by_hand


def test_the_production_profile_is_counted_without_being_built():
    width, forward = 2048, 8192
    by_hand = (65536 + 4096) * width + 48 * (4 * width**2 + 2 * width * forward + 2 * width) + width
    assert parameter_count(load_settings("production_4process", environment={})) == by_hand
    assert 2.5e9 < by_hand < 2.6e9


def test_equal_seeds_give_equal_weights_whatever_was_drawn_before():
    first = built(seed=5).state_dict()
    torch.rand(7)
    second, other = built(seed=5).state_dict(), built(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["token.weight"], other["token.weight"])


def test_fresh_weights_have_the_spread_of_the_source_and_norms_are_one():
    model = built("model.embedding_dim=128", "model.feed_forward_dim=256")
    for name, p in model.named_parameters():
        if p.ndim < 2:
            assert torch.equal(p, torch.ones_like(p))
        else:
            expected = 0.02 / 2 if name.endswith(("project.weight", "contract.weight")) else 0.02
            assert abs(p.std() / expected - 1) < 5 / (2 * p.numel()) ** 0.5, name


def test_a_fresh_model_knows_nothing():
    tokens, targets = batch(16)
    loss, _ = built()(tokens, targets, 1 / targets.numel())
    assert abs(loss.item() - torch.tensor(300.0).log().item()) < 0.1


def test_hidden_states_do_not_depend_on_what_comes_after():
    tokens, _ = batch()
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 300
    model = built()
    before, after = model.hidden(tokens), model.hidden(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_recomputing_activations_gives_the_same_gradients_under_dropout():
    data, keys = batch(), (11, 12, 13, 14)
    kept = trained(built("model.dropout=0.3"), *data, keys)
    recomputed = trained(built("model.dropout=0.3", "hardware.gradient_checkpoint=true"), *data, keys)
    torch.testing.assert_close(recomputed, kept, rtol=1e-13, atol=0)
    assert kept[0] != trained(built(), *data, keys)[0], "dropout did nothing"


@pytest.mark.parametrize("dropout", ["0.0", "0.3"])
def test_the_gradients_of_two_ranks_add_up_to_those_of_one(dropout):
    (tokens, targets), keys = batch(), (11, 12, 13, 14)
    model = built(f"model.dropout={dropout}")
    whole = trained(model, tokens, targets, keys)
    halves = [trained(model, tokens[part], targets[part], keys[part]) for part in (slice(2), slice(2, 4))]
    summed = halves[0][0] + halves[1][0], {name: halves[0][1][name] + halves[1][1][name] for name in whole[1]}
    torch.testing.assert_close(summed, whole, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_the_gradients_are_the_derivatives(tied):
    tokens, targets = batch(2)
    model, keys = built(f"model.tied_head={tied}", "model.dropout=0.2"), (1, 2)
    with torch.no_grad():  # at 0.02 all derivatives are small
        for p in model.parameters():
            p.mul_(10 if p.ndim > 1 else 1)
    gradients = trained(model, tokens, targets, keys)[1]
    for name, p in model.named_parameters():
        place, step = p.numel() // 3, 1e-6
        place = int(gradients[name].abs().argmax()) if gradients[name].view(-1)[place] == 0 else place
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                p.view(-1)[place] += sign * step
                sides.append(model(tokens, targets, 0.01, keys)[0].item())
                p.view(-1)[place] -= sign * step
        numeric = (sides[0] - sides[1]) / (2 * step)
        assert gradients[name].view(-1)[place].item() == pytest.approx(numeric, rel=1e-4, abs=1e-8), name


def test_it_trains_the_same_whether_it_keeps_activations_or_forms_them_again(monkeypatch):
    found = []
    for lean in (False, True):
        monkeypatch.setattr(transformer, "takes_lean", lambda width, lean=lean: lean)
        found.append(trained(built(), *batch(), None))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)
