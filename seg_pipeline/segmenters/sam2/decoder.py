"""SAM-2's mask decoder for many single points on one picture.

It computes what upstream's `MaskDecoder` does, with its sums in another order. Upstream copies the
picture's features for every point and takes the copy through the two-way transformer. Here that
copy is never made. The picture's attention to a point's tokens adds a product to the features: the
attention weights times one row for each head and token. So a point's features always are

    keys = scale * shared + weights @ rows + constant

with the same `shared` for every point. A projection of the keys is then a projection of `shared`,
computed once a picture, plus a projection of a few rows. A layer norm needs only the length of each
key, which follows from the rows' inner products. The result equals upstream's up to rounding. Masks
are computed only for the tokens that are requested.

In the shapes below `p` is points, `t` tokens of a point, `n = h w` positions of the picture, `c`
channels of an embedding, `H` heads, `d` channels of a head, and `r = H t` rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

POSITIONS_AT_ONCE = 4096
"""Positions of the picture, times points, in one step on a CPU: they should stay in its cache."""


class Attention:
    """One of upstream's `Attention` layers, by heads.

    The queries carry the factor of the scores.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.heads = int(layer.num_heads)
        self.scale = float((layer.internal_dim // layer.num_heads) ** -0.5)

    def queries(self, x: Tensor) -> Tensor:
        """The queries of each head: `(…, t, c)` to `(…, H, t, d)`, as for keys and values."""
        return self.split(self.layer.q_proj(x)) * self.scale

    def keys(self, x: Tensor) -> Tensor:
        """The keys of each head."""
        return self.split(self.layer.k_proj(x))

    def values(self, x: Tensor) -> Tensor:
        """The values of each head."""
        return self.split(self.layer.v_proj(x))

    def out(self, x: Tensor) -> Tensor:
        """The output projection: `(…, H, t, d)` to `(…, t, c)`."""
        return self.layer.out_proj(x.transpose(-3, -2).flatten(-2))

    def out_by_head(self) -> Tensor:
        """The weights of `out`, `(H, d, c)`: from a head's values to an embedding."""
        return self.layer.out_proj.weight.T.unflatten(0, (self.heads, -1))

    def split(self, x: Tensor) -> Tensor:
        """`(…, t, H d)` to `(…, H, t, d)`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


@dataclass(frozen=True)
class Projection:
    """What the tokens are multiplied with in place of the keys.

    `shared` and `position` are the projections of the shared part and of the position, `(H, d, n)`.
    `weights (c, H d)` project the rows.
    """

    shared: Tensor
    position: Tensor
    weights: Tensor


@dataclass(frozen=True)
class ImageCache:
    """What is the same for every point of a picture, `(H, d, n)` unless stated otherwise.

    Tensors of shape `(n,)` are float32, the others are in the decoder's dtype.
    """

    token_keys: Tensor  # (1, H, n, d): what the tokens look at first, as is the next
    token_values: Tensor
    first_scores: Tensor
    first_cross: Tensor
    first_length: Tensor  # (n,)
    second_keys: Projection
    second_values: Tensor  # (H, n, d)
    second_scores: Projection
    second_cross: Tensor  # (2 H, d, n): of the first and the second rows
    second_length: Tensor  # (n,)
    constant_cross: Tensor  # (n,)
    last_keys: Projection
    last_values: Tensor  # (H, n, d)
    upscaled: "UpscaledCache"


@dataclass(frozen=True)
class UpscaledCache:
    """What is the same for every point when each position is upscaled to 4 x 4 pixels."""

    coarse: Tensor  # (n, 4 c / 4)
    coarse_constant: Tensor  # (n, 4 c / 4)
    fine_constant: Tensor  # (n, 4 4 c / 8)


@dataclass(frozen=True)
class Tokens:
    """What some points' tokens contribute to the picture in one layer.

    Keys and values are `(p, H, t, d)`.
    """

    keys: Tensor
    values: Tensor

    def part(self, points: slice) -> "Tokens":
        """The tokens of a few points."""
        return Tokens(self.keys[points], self.values[points])


@dataclass(frozen=True)
class Features:
    """The features of a picture after some points have changed them (see the module)."""

    # (p, 2 r, n) in the decoder's dtype: of both layers, `r` times the first norm's scale first.
    weights: Tensor
    scale: Tensor  # (p, 1, n) float32: of the first norm
    last_scale: Tensor  # (p, 1, n) float32: of the second
    rows: Tensor  # (p, 2 r, c) float32: as they are after the second norm's gain

    def part(self, points: slice) -> "Features":
        """Views of a few points, to write into."""
        return Features(
            self.weights[points], self.scale[points], self.last_scale[points], self.rows[points]
        )


@dataclass(frozen=True)
class AttentionView:
    """Features as an attention reads them: `outer_scale * (scale * shared + weights @ rows)`."""

    weights: Tensor  # (p, k, n)
    rows: Tensor  # (p, k, c)
    scale: Tensor  # (p, 1, n)
    outer_scale: Tensor | None = None  # (p, 1, n)


@dataclass(frozen=True)
class Attended:
    """A batch of points after the transformer."""

    queries: Tensor  # (p, 1 + masks, c) float32: of the predicted IoU's token and of the masks'
    features: Features

    def part(self, points: slice) -> "Attended":
        """A few of the points."""
        return Attended(self.queries[points], self.features.part(points))


@dataclass(frozen=True)
class PointMasks:
    """The wanted masks of a point, before any of their pixels is computed.

    A pixel depends on the features of its own position only, so single positions can be computed.
    """

    point: int  # which of the batch
    networks: Tensor  # (k, c / 8) float32: what the upscaled features are multiplied with
    weights: Tensor  # (2 r, n) in the decoder's dtype, as are the rows; see `Features`
    scale: Tensor  # (n,) float32
    last_scale: Tensor  # (n,) float32
    rows: Tensor  # (2 r, 4 c / 4): of the features after the first transposed convolution

    def take(self, masks: Tensor) -> "PointMasks":
        """Some of the masks, by a `(k,) bool`."""
        return replace(self, networks=self.networks[masks])


class FastMaskDecoder:
    """A SAM-2's mask decoder for single points.

    The picture's side is in `dtype`, the tokens' in float32. A picture has `positions` (n in the
    shapes) in `size`, rows and columns.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self._decoder: Any = model.sam_mask_decoder
        self._prompts: Any = model.sam_prompt_encoder
        self._dtype = dtype
        height, width = self._prompts.image_embedding_size
        self.size = int(height), int(width)
        self.positions = int(height * width)
        self._fixed_tokens = _fixed_tokens(self._decoder)
        self._first, self._second = self._decoder.transformer.layers
        self._first_to_image, self._second_to_image, self._final_to_image = map(
            Attention,
            (
                self._first.cross_attn_token_to_image,
                self._second.cross_attn_token_to_image,
                self._decoder.transformer.final_attn_token_to_image,
            ),
        )
        self._first_to_tokens = Attention(self._first.cross_attn_image_to_token)
        self._second_to_tokens = Attention(self._second.cross_attn_image_to_token)
        self._fold_weights()

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model's decoder is built as all published ones are."""
        decoder = model.sam_mask_decoder
        return len(decoder.transformer.layers) == 2 and bool(decoder.use_high_res_features)

    def _fold_weights(self) -> None:
        """Precomputes what depends on the weights alone.

        Rows are centred, since a layer norm subtracts their mean anyway.
        """
        gain, bias = self._first.norm4.weight, self._first.norm4.bias
        self._first_out = _centred(self._first_to_tokens.out_by_head())
        self._first_out_again = _centred(self._first_out * gain)
        self._second_out = _centred(self._second_to_tokens.out_by_head())
        self._both_outs = torch.cat([self._first_out_again, self._second_out])
        self._constant = _centred(bias + self._second_to_tokens.layer.out_proj.bias)
        coarse, self._norm, _, fine, _ = self._decoder.output_upscaling
        self._coarse_weights = coarse.weight.permute(0, 2, 3, 1).flatten(1)
        self._fine_weights = fine.weight.permute(0, 2, 3, 1).flatten(1).to(self._dtype)
        self._norm_weights = self._norm.weight.to(self._dtype), self._norm.bias.to(self._dtype)

    def cache(self, embedding: Tensor, fine: Tensor, finest: Tensor) -> ImageCache:
        """Computes what is the same for every point of a picture.

        `embedding (1, c, h, w)` and the features of twice and four times its size, `(1, c / 4, 2 h,
        2 w)` and `(1, c / 8, 4 h, 4 w)`, are those of `SAM2ImagePredictor.set_image`.
        """
        features = (
            (embedding.float() + self._prompts.no_mask_embed.weight.reshape(1, -1, 1, 1))[0]
            .flatten(1)
            .T
        )
        position = self._prompts.get_dense_pe()[0].flatten(1).T
        first = _centred(features + self._first_to_tokens.layer.out_proj.bias)
        second = first * self._first.norm4.weight
        last = _centred(second) * self._second.norm4.weight
        return ImageCache(
            **self._cache_first(features, position, first),
            **self._cache_second(position, second),
            **self._cache_last(position, last),
            upscaled=self._cache_upscaled(last, fine.float(), finest.float()),
        )

    def _cache_first(self, features: Tensor, position: Tensor, centred: Tensor) -> dict[str, Any]:
        return {
            "token_keys": self._cast(self._first_to_image.keys(features + position)[None]),
            "token_values": self._cast(self._first_to_image.values(features)[None]),
            "first_scores": self._cast(
                self._first_to_tokens.queries(features + position).transpose(1, 2)
            ),
            "first_cross": self._cast(2 * self._first_out @ centred.T),
            "first_length": centred.square().sum(1),
        }

    def _cache_second(self, position: Tensor, second: Tensor) -> dict[str, Any]:
        forward, back, centred = self._second_to_image, self._second_to_tokens, _centred(second)
        q_proj = back.layer.q_proj
        constant = (q_proj(self._first.norm4.bias) * back.scale).view(back.heads, -1, 1)
        scores = self._projection(q_proj, second, position, back, back.scale)
        return {
            "second_keys": self._projection(forward.layer.k_proj, second, position, forward),
            "second_values": self._cast(forward.split(second @ forward.layer.v_proj.weight.T)),
            "second_scores": Projection(
                scores.shared, scores.position + constant.to(self._dtype), scores.weights
            ),
            "second_cross": self._cast(2 * self._both_outs @ centred.T),
            "second_length": centred.square().sum(1),
            "constant_cross": 2 * centred @ self._constant,
        }

    def _cache_last(self, position: Tensor, last: Tensor) -> dict[str, Any]:
        final = self._final_to_image
        return {
            "last_keys": self._projection(final.layer.k_proj, last, position, final),
            "last_values": self._cast(final.split(last @ final.layer.v_proj.weight.T)),
        }

    def _cache_upscaled(self, last: Tensor, fine: Tensor, finest: Tensor) -> UpscaledCache:
        """Both transposed convolutions as matrix products.

        Each position's `2 x 2` pixels lie side by side.
        """
        coarse_bias, fine_bias = (self._decoder.output_upscaling[i].bias.repeat(4) for i in (0, 3))
        height, width = self._prompts.image_embedding_size
        fine = fine.reshape(-1, height, 2, width, 2).permute(1, 3, 2, 4, 0)
        finest = finest.reshape(-1, height, 2, 2, width, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
        constant = self._second.norm4.bias @ self._coarse_weights + coarse_bias
        finest = finest.reshape(4 * len(last), -1) + fine_bias
        return UpscaledCache(
            coarse=self._cast(last @ self._coarse_weights),
            coarse_constant=self._cast(fine.reshape(len(last), -1) + constant),
            fine_constant=self._cast(finest.view(len(last), -1)),
        )

    def _projection(
        self,
        linear: Any,
        shared: Tensor,
        position: Tensor,
        attention: Attention,
        scale: float = 1.0,
    ) -> Projection:
        """The projection without the linear layer's bias and the keys' constant.

        Both shift all scores of a softmax by the same amount, which changes nothing.
        """
        weights = linear.weight.T * scale
        by_head = [
            self._cast(attention.split(x @ weights).transpose(1, 2)) for x in (shared, position)
        ]
        return Projection(by_head[0], by_head[1], weights)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self._dtype).contiguous()

    def attend(self, cache: ImageCache, coordinates: Tensor, multimask: bool = True) -> Attended:
        """Upstream's `TwoWayTransformer` for points `(p, 2)` float32, in pixels of its input.

        With `multimask` it prepares the three masks of an ambiguous point, else the single one.
        """
        tokens = self._embed(coordinates)
        features = self._make_room(tokens, len(cache.first_length))
        queries = self._first_layer(cache, tokens)
        first = Tokens(
            self._first_to_tokens.keys(queries + tokens), self._first_to_tokens.values(queries)
        )
        queries = self._second_layer(cache, features, first, queries, tokens)
        second = Tokens(
            self._second_to_tokens.keys(queries + tokens), self._second_to_tokens.values(queries)
        )
        needed = partial(self._needed, multimask=multimask)
        final_queries = self._final_to_image.queries(needed(queries + tokens))
        attended_values = self._by_parts(
            final_queries,
            lambda i: self._change_second(
                cache, features.part(i), first.part(i), second.part(i), final_queries[i]
            ),
        )
        queries = needed(queries) + self._final_to_image.out(attended_values)
        return Attended(self._decoder.transformer.norm_final_attn(queries), features)

    def predicted_iou(self, attended: Attended) -> Tensor:
        """The predicted IoU of each mask, `(p, m)` float32, where `m` is 3 or 1."""
        guesses: Tensor = self._decoder.iou_prediction_head(attended.queries[:, 0])
        return guesses[:, self._mask_tokens(attended)]

    def masks(self, cache: ImageCache, attended: Attended, wanted: Tensor) -> list[Tensor]:
        """The logits `(k, 4 h, 4 w)` float32 of the wanted masks `(p, m) bool`, by point.

        Points without a wanted mask are left out.
        """
        return [
            self.arrange(self.upscale(cache, masks)) for masks in self.point_masks(attended, wanted)
        ]

    def point_masks(self, attended: Attended, wanted: Tensor) -> Iterator[PointMasks]:
        """The wanted masks `(p, m) bool` of each point that has any, not computed yet."""
        weights, features = self._networks(attended), attended.features
        for point in torch.nonzero(wanted.any(1)).flatten().tolist():
            yield PointMasks(
                point=point,
                networks=weights[point, wanted[point]],
                weights=features.weights[point],
                scale=features.scale[point, 0],
                last_scale=features.last_scale[point, 0],
                rows=(features.rows[point] @ self._coarse_weights).to(self._dtype),
            )

    def upscale(
        self, cache: ImageCache, masks: PointMasks, positions: Tensor | None = None
    ) -> Tensor:
        """The end of upstream's `predict_masks`: the logits `(k, s, 16)` float32 at some positions.

        `positions` is an index `(s,)`; None takes all. A position's 4 x 4 pixels lie two by two:
        all of one pixel of the first transposed convolution, then those of the next.
        """
        of = _everywhere if positions is None else partial(torch.index_select, index=positions)
        last_scale = of(masks.last_scale, 0)
        scale = (of(masks.scale, 0) * last_scale)[:, None].to(self._dtype)
        weights = (of(masks.weights, 1) * last_scale.to(self._dtype)).T
        upscaled = cache.upscaled
        coarse = torch.addcmul(of(upscaled.coarse_constant, 0), of(upscaled.coarse, 0), scale)
        coarse = coarse.addmm_(weights, masks.rows).view(-1, len(self._norm.weight))
        coarse = layer_norm(coarse, self._norm.weight.shape, *self._norm_weights, self._norm.eps)
        constant = of(upscaled.fine_constant, 0).view(len(coarse), -1)
        in_place = None if positions is None else constant  # which then is a copy
        fine = torch.addmm(constant, torch.ops.aten.gelu_(coarse), self._fine_weights, out=in_place)
        fine = torch.ops.aten.gelu_(fine).view(-1, masks.networks.shape[1])
        return (masks.networks.to(self._dtype) @ fine.T).float().unflatten(1, (-1, 16))

    def upscale_all(self, cache: ImageCache, attended: Attended) -> Tensor:
        """The logits `(p, m, 4 h, 4 w)` of all masks of some points, in the decoder's dtype.

        It is `upscale` and `arrange` in products over all points, without a step for each point.
        """
        features, upscaled = attended.features, cache.upscaled
        rows = (features.rows @ self._coarse_weights).to(self._dtype)
        scale, last_scale = (
            each.to(self._dtype).transpose(1, 2) for each in (features.scale, features.last_scale)
        )
        coarse = upscaled.coarse * scale + features.weights.transpose(1, 2) @ rows
        coarse = (upscaled.coarse_constant + coarse * last_scale).unflatten(2, (4, -1))
        coarse = layer_norm(coarse, self._norm.weight.shape, *self._norm_weights, self._norm.eps)
        constant = upscaled.fine_constant.unflatten(1, (4, -1))
        fine = gelu(gelu(coarse) @ self._fine_weights + constant)
        networks = self._networks(attended).to(self._dtype)
        fine = fine.reshape(len(networks), -1, networks.shape[2])
        logits = (networks @ fine.transpose(1, 2)).unflatten(2, (*self.size, 2, 2, 2, 2))
        return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5).flatten(2, 4)

    def _networks(self, attended: Attended) -> Tensor:
        """What the upscaled features are multiplied with, `(p, m, c / 8)` float32."""
        networks = self._decoder.output_hypernetworks_mlps[self._mask_tokens(attended)]
        return torch.stack(
            [network(attended.queries[:, 1 + i]) for i, network in enumerate(networks)], 1
        )

    def arrange(self, logits: Tensor) -> Tensor:
        """The logits `(k, n, 16)` float32 of all positions as pictures `(k, 4 h, 4 w)`."""
        height, width = self._prompts.image_embedding_size
        # Two pixels side by side move as one, in a tenth of the time.
        pairs = logits.flatten(1).view(torch.float64)
        pairs = pairs.view(-1, height, width, 2, 2, 2).permute(0, 1, 3, 5, 2, 4)
        return pairs.reshape(-1, 4 * height, 2 * width).view(torch.float32)

    def _mask_tokens(self, attended: Attended) -> slice:
        return slice(0, 1) if attended.queries.shape[1] == 2 else slice(1, None)

    def _needed(self, queries: Tensor, multimask: bool) -> Tensor:
        """What the end needs of `(p, t, c)`: the predicted IoU's token and those of the masks.

        An index in a list would be copied to the device at every call.
        """
        iou = self._fixed_tokens.shape[0] - self._decoder.num_mask_tokens - 1
        first, count = (iou + 2, self._decoder.num_mask_tokens - 1) if multimask else (iou + 1, 1)
        return torch.cat([queries[:, iou : iou + 1], queries[:, first : first + count]], 1)

    def _embed(self, coordinates: Tensor) -> Tensor:
        """The tokens of points, `(p, t, c)`: upstream's fixed ones and the prompt's."""
        labels = torch.ones(len(coordinates), 1, dtype=torch.int, device=coordinates.device)
        prompt, _ = self._prompts(points=(coordinates[:, None], labels), boxes=None, masks=None)
        return torch.cat([self._fixed_tokens.expand(len(coordinates), -1, -1), prompt], dim=1)

    def _first_layer(self, cache: ImageCache, tokens: Tensor) -> Tensor:
        """The tokens after the first layer, where the picture is still the same for all points.

        The tokens of all points go through one attention as its queries.
        """
        layer, count = self._first, len(tokens)
        queries = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
        image_queries = self._first_to_image.queries(queries + tokens).transpose(0, 1)
        image_queries = self._cast(image_queries).flatten(1, 2)[None]
        attended_values = scaled_dot_product_attention(
            image_queries, cache.token_keys, cache.token_values, scale=1.0
        )
        attended_values = attended_values[0].float().unflatten(1, (count, -1)).transpose(0, 1)
        queries = layer.norm2(queries + self._first_to_image.out(attended_values))
        return layer.norm3(queries + layer.mlp(queries))

    def _second_layer(
        self, cache: ImageCache, features: Features, first: Tokens, queries: Tensor, tokens: Tensor
    ) -> Tensor:
        """The tokens after the second layer. Also changes the picture by the first layer."""
        layer, positioned = self._second, queries + tokens
        queries = layer.norm1(queries + layer.self_attn(q=positioned, k=positioned, v=queries))
        image_queries = self._second_to_image.queries(queries + tokens)
        attended_values = self._by_parts(
            image_queries,
            lambda i: self._change_first(cache, features.part(i), first.part(i), image_queries[i]),
        )
        queries = layer.norm2(queries + self._second_to_image.out(attended_values))
        return layer.norm3(queries + layer.mlp(queries))

    def _make_room(self, tokens: Tensor, positions: int) -> Features:
        count, rows = len(tokens), 2 * self._first_to_tokens.heads * tokens.shape[1]
        return Features(
            weights=tokens.new_empty(count, rows, positions, dtype=self._dtype),
            scale=tokens.new_empty(count, 1, positions),
            last_scale=tokens.new_empty(count, 1, positions),
            rows=tokens.new_empty(count, rows, tokens.shape[2]),
        )

    def _by_parts(self, queries: Tensor, step: Callable[[slice], Tensor]) -> Tensor:
        """The step's results, for as many points at once as suit the device."""
        count = len(queries)
        size = (
            max(POSITIONS_AT_ONCE // self.positions, 1) if queries.device.type == "cpu" else count
        )
        return torch.cat([step(slice(start, start + size)) for start in range(0, count, size)])

    def _change_first(
        self, cache: ImageCache, features: Features, first: Tokens, queries: Tensor
    ) -> Tensor:
        """The picture's attention to the tokens in the first layer, and theirs in the second."""
        half = features.weights.shape[1] // 2
        scores = _by_shared(first.keys.to(self._dtype), cache.first_scores)
        weights = scores.softmax(2).flatten(1, 2)
        rows = _by_shared(first.values, self._first_out).flatten(1, 2)
        cross = _by_shared(first.values.to(self._dtype), cache.first_cross).flatten(1, 2)
        length = cache.first_length + _quadratic(rows, weights, cross)
        features.scale.copy_(_norm_scale(length, self._first.norm4))
        _multiply(weights, features.scale.to(self._dtype), features.weights[:, :half])
        view = AttentionView(
            features.weights[:, :half], rows * self._first.norm4.weight, features.scale
        )
        attention_weights = self._scores(
            cache.second_keys, self._second_to_image, queries, view
        ).softmax(-1)
        return self._attended_values(
            cache.second_values,
            self._second_to_image,
            attention_weights,
            view,
            self._first.norm4.bias,
        )

    def _change_second(
        self, cache: ImageCache, features: Features, first: Tokens, second: Tokens, queries: Tensor
    ) -> Tensor:
        """The same in the second layer, and the attention at the end."""
        half, heads = features.weights.shape[1] // 2, self._second_to_tokens.heads
        first_rows = _by_shared(first.values, self._first_out).flatten(1, 2)
        first_rows = first_rows * self._first.norm4.weight
        view = AttentionView(features.weights[:, :half], first_rows, features.scale)
        scores = self._scores(cache.second_scores, self._second_to_tokens, second.keys, view)
        features.weights[:, half:] = scores.softmax(2).flatten(1, 2)
        values = torch.cat([first.values, second.values], 1)
        rows = _by_shared(values, self._both_outs).flatten(1, 2)
        rows[:, half:] += self._constant / heads  # its weights add up to 1 for each head
        features.last_scale.copy_(self._last_scale(cache, features, rows, values))
        features.rows.copy_(rows * self._second.norm4.weight)
        view = AttentionView(features.weights, features.rows, features.scale, features.last_scale)
        attention_weights = self._scores(
            cache.last_keys, self._final_to_image, queries, view
        ).softmax(-1)
        return self._attended_values(
            cache.last_values,
            self._final_to_image,
            attention_weights,
            view,
            self._second.norm4.bias,
        )

    def _last_scale(
        self, cache: ImageCache, features: Features, rows: Tensor, values: Tensor
    ) -> Tensor:
        scale = features.scale
        cross = _by_shared(values.to(self._dtype), cache.second_cross).flatten(1, 2)
        cross *= scale.to(self._dtype)
        length = scale * (scale * cache.second_length + cache.constant_cross)
        return _norm_scale(
            length[:, 0] + _quadratic(rows, features.weights, cross), self._second.norm4
        )

    def _scores(
        self, projection: Projection, attention: Attention, queries: Tensor, view: AttentionView
    ) -> Tensor:
        """The scores `(p, H, t, n)` of queries `(p, H, t, d)` with the positioned features."""
        of_rows = attention.split(view.rows @ projection.weights).transpose(2, 3)
        of_rows = (queries @ of_rows).flatten(1, 2).to(self._dtype)
        scores, scale = of_rows @ view.weights, view.scale
        if view.outer_scale is not None:
            scores *= view.outer_scale.to(self._dtype)
            scale = scale * view.outer_scale
        keys = torch.addcmul(projection.position, projection.shared, scale[:, None].to(self._dtype))
        by_head = scores.view(-1, queries.shape[2], scores.shape[2])
        by_head.baddbmm_(queries.flatten(0, 1).to(self._dtype), keys.flatten(0, 1))
        return scores.unflatten(1, queries.shape[1:3])

    def _attended_values(
        self,
        values: Tensor,
        attention: Attention,
        attention_weights: Tensor,
        view: AttentionView,
        constant: Tensor,
    ) -> Tensor:
        """The attended values `(p, H, t, d)` float32.

        `attention_weights (p, H, t, n)` are overwritten.
        """
        project = attention.layer.v_proj
        if view.outer_scale is not None:
            attention_weights *= view.outer_scale[:, None].to(self._dtype)
        of_rows = attention.split(view.rows @ project.weight.T)
        by_row = (
            (attention_weights.flatten(1, 2) @ view.weights.transpose(1, 2))
            .unflatten(1, attention_weights.shape[1:3])
            .float()
        )
        attention_weights *= view.scale[:, None].to(self._dtype)
        return (
            _by_shared(attention_weights, values).float()
            + by_row @ of_rows
            + attention.split(project(constant)[None])
        )


def _everywhere(x: Tensor, dim: int) -> Tensor:
    """`x` itself, in place of a selection along `dim`."""
    return x


def _by_shared(x: Tensor, shared: Tensor) -> Tensor:
    """`x (p, H, t, d) @ shared (H, d, n)`: one product for each head.

    Torch's own would copy `shared` for each point.
    """
    product = x.transpose(0, 1).flatten(1, 2) @ shared
    return product.unflatten(1, (len(x), -1)).transpose(0, 1)


def _multiply(x: Tensor, by: Tensor, out: Tensor) -> None:
    """Writes the product where it is to be. The compiler writes nothing twice in any case.

    It breaks off at an `out` with gaps.
    """
    if torch.compiler.is_compiling():
        out.copy_(x * by)
    else:
        torch.mul(x, by, out=out)


def _fixed_tokens(decoder: Any) -> Tensor:
    """The tokens that every point has: upstream's first lines of `predict_masks`."""
    tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    return torch.cat(
        [decoder.obj_score_token.weight, *tokens] if decoder.pred_obj_scores else tokens
    )


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _quadratic(rows: Tensor, weights: Tensor, cross: Tensor) -> Tensor:
    """The squared lengths `(p, n)` float32 of `weights @ rows`, plus its products with `cross`.

    `rows` are `(p, r, c)`, `weights` and `cross` `(p, r, n)`. `cross` is overwritten.
    """
    gram = (rows @ rows.transpose(1, 2)).to(weights.dtype)
    if torch.compiler.is_compiling():  # it fuses sums of its own, but not those of a product
        return ((gram @ weights + cross) * weights).sum(1, dtype=torch.float32)
    return cross.baddbmm_(gram, weights).mul_(weights).sum(1, dtype=torch.float32)


def _norm_scale(length: Tensor, norm: Any) -> Tensor:
    """The factor `(p, 1, n)` by which a layer norm scales centred rows of this squared length."""
    return (length / norm.normalized_shape[0] + norm.eps).rsqrt()[:, None]
