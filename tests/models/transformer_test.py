"""The transformer encoder against PyTorch's, and the position embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.models.transformer import Encoder, PositionEmbedding
from tests.models.random_variables import count, draw, shapes


def test_equals_the_encoder_of_pytorch():
    torch = pytest.importorskip('torch')
    from tests.models import torch_layers

    model = Encoder(n_layers=2, n_heads=3, mlp_dim=20)
    tokens = np.random.default_rng(0).normal(size=(2, 7, 12)).astype(np.float32)
    variables = draw(model, tokens.shape, train=False)
    with torch.no_grad():
        theirs = torch_layers.encoder(torch.tensor(tokens), variables['params'], 3)
    np.testing.assert_allclose(
        model.apply(variables, jnp.asarray(tokens), train=False), theirs, atol=1e-5
    )


def test_a_layer_of_vit_base_has_the_published_parameters():
    model = Encoder(n_layers=1, n_heads=12, mlp_dim=3072)
    found = shapes(model, (1, 4, 768), train=False)
    # Norms 2 · 2 · 768; query, key, value, out 4 · (768² + 768); 768 → 3072 → 768.
    assert count(found['params']['layer_0']) == 7_087_872
    assert count(found['params']['norm']) == 2 * 768


def test_drops_out_in_training_only():
    model = Encoder(n_layers=1, n_heads=2, mlp_dim=8, dropout=0.5)
    tokens = jnp.ones((1, 3, 4))
    variables = draw(model, tokens.shape, train=False)
    rngs = [{'dropout': jax.random.key(i)} for i in range(2)]
    a, b = (model.apply(variables, tokens, train=True, rngs=r) for r in rngs)
    assert not np.allclose(a, b)
    a, b = (model.apply(variables, tokens, train=False, rngs=r) for r in rngs)
    np.testing.assert_array_equal(a, b)


def test_equal_tokens_have_finite_gradients():
    model = Encoder(n_layers=1, n_heads=2, mlp_dim=8)
    variables = draw(model, (1, 3, 4), train=False)
    for tokens in (jnp.zeros((1, 3, 4)), jnp.full((1, 3, 4), 7.0)):
        gradient = jax.grad(lambda t: jnp.sum(model.apply(variables, t, train=False) ** 2))(tokens)
        assert np.isfinite(gradient).all()


def test_position_embedding_of_its_own_grid_is_the_table():
    model = PositionEmbedding((2, 3), align_corners=False)
    table = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    added = model.apply({'params': {'table': table}}, jnp.zeros((2, 2, 3, 4)))
    np.testing.assert_array_equal(added, np.broadcast_to(table, added.shape))


def test_position_embedding_of_another_grid_is_interpolated():
    model = PositionEmbedding((3, 2), align_corners=True)
    assert shapes(model, (1, 5, 3, 1))['params']['table'].shape == (1, 3, 2, 1)
    y, x = np.meshgrid(np.arange(3.0), np.arange(2.0), indexing='ij')
    table = (10 * y + x)[None, :, :, None].astype(np.float32)
    apply = jax.jit(lambda table, t: model.apply({'params': {'table': table}}, t))
    added = apply(table, jnp.zeros((1, 5, 3, 1)))
    y, x = np.meshgrid(np.linspace(0, 2, 5), np.linspace(0, 1, 3), indexing='ij')
    np.testing.assert_allclose(added[0, :, :, 0], 10 * y + x, atol=1e-5)
