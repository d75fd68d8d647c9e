r"""A contrastive model that embeds texts and images in one space, as CLIP (Radford et al. 2021).

$$ \mathrm{scores} = e^{\tau}\, \hat{t}\, \hat{v}^\top, \qquad
   t = W_t\, \mathrm{decoder}(\mathrm{tokens})_{\mathrm{end}}, \quad v = W_v\, \mathrm{vit}(\mathrm{image})_0 $$

The text tower is a `Decoder` without its output head; the image tower is a `VisionTransformer`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory, constant_parameter, linear
from torch_attention.models.decoder import Decoder, DecoderConfig
from torch_attention.models.vision_transformer import VisionTransformer, VisionTransformerConfig
from torch_attention.outputs import ContrastiveOutput


@checked
@dataclass(frozen=True)
class ContrastiveConfig:
    """Sizes of a contrastive model.

    Attributes:
        text: sizes of the text tower.
        image: sizes of the image tower.
        feature_dim: number of features of the shared space.
        end_token: token id whose first occurrence gives the text's vector; None for the position of the highest id.
    """

    text: DecoderConfig
    image: VisionTransformerConfig
    feature_dim: int
    end_token: int | None = None


@checked
class ContrastiveModel(nn.Module):
    """Contrastive model: similarity scores of texts and images (Radford et al. 2021).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: the sizes of a tower are invalid.
    """

    def __init__(
        self,
        config: ContrastiveConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        features = config.feature_dim
        self.config = config
        self.text = Decoder(config.text, **factory)
        self.image = VisionTransformer(config.image, **factory)
        self.text_proj = linear(config.text.embed_dim, features, bias=False, **factory)
        self.image_proj = linear(config.image.embed_dim, features, bias=False, **factory)
        self.logit_scale = constant_parameter(value=2.6592, **factory)

    def forward(
        self,
        tokens: Int[Tensor, "texts length"],
        image: Float[Tensor, "images height width channels"],
        mask: Shaped[Tensor, "..."] | None = None,
    ) -> ContrastiveOutput:
        """Score every text against every image.

        Args:
            tokens: token ids of the texts.
            image: images, channels last.
            mask: boolean mask, False at padding, such as `padding_mask(tokens, pad_id)`; None for no padding.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or the images have another size.
        """
        text = _unit(self.read(tokens, mask))  # texts features
        looked = _unit(self.look(image))  # images features
        return ContrastiveOutput(torch.exp(self.logit_scale[...]) * (text @ looked.T), text, looked)

    @checked
    def read(
        self, tokens: Int[Tensor, "texts length"], mask: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "texts features"]:
        """Embed the texts; vectors are not normalised. Arguments as in the model's call."""
        read = self.text.read(tokens, mask).output  # texts length embed
        marks = tokens if self.config.end_token is None else tokens == self.config.end_token
        ends = torch.argmax(torch.as_tensor(marks, dtype=torch.int32), dim=-1)  # texts
        last = torch.take_along_dim(read, ends[:, None, None], dim=1)  # texts 1 embed
        return self.text_proj(last[:, 0])

    @checked
    def look(self, image: Float[Tensor, "images height width channels"]) -> Float[Tensor, "images features"]:
        """Embed the images; vectors are not normalised."""
        return self.image_proj(self.image(image).output[:, 0])


def _unit(x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True))
