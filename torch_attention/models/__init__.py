"""Whole models, built from the mechanisms, and the feed-forward networks and norms that a `Part` names."""

from torch_attention.feed_forward import ClampedFeedForward as ClampedFeedForward
from torch_attention.feed_forward import FeedForward as FeedForward
from torch_attention.feed_forward import GatedFeedForward as GatedFeedForward
from torch_attention.head_norms import head_layer_norm as head_layer_norm
from torch_attention.models.beams import BeamOutput as BeamOutput
from torch_attention.models.beams import beam_search as beam_search
from torch_attention.models.contrastive import ContrastiveConfig as ContrastiveConfig
from torch_attention.models.contrastive import ContrastiveModel as ContrastiveModel
from torch_attention.models.decoder import Decoder as Decoder
from torch_attention.models.decoder import DecoderConfig as DecoderConfig
from torch_attention.models.decoder import DecoderLayer as DecoderLayer
from torch_attention.models.description import LayerSpec as LayerSpec
from torch_attention.models.description import ModelSpec as ModelSpec
from torch_attention.models.description import Part as Part
from torch_attention.models.encoder import Encoder as Encoder
from torch_attention.models.encoder import EncoderConfig as EncoderConfig
from torch_attention.models.encoder import EncoderLayer as EncoderLayer
from torch_attention.models.encoder_decoder import EncoderDecoder as EncoderDecoder
from torch_attention.models.encoder_decoder import EncoderDecoderConfig as EncoderDecoderConfig
from torch_attention.models.encoder_decoder import StackConfig as StackConfig
from torch_attention.models.experts import MixtureOfExperts as MixtureOfExperts
from torch_attention.models.generation import generate as generate
from torch_attention.models.language import LanguageModel as LanguageModel
from torch_attention.models.recurrent_seq2seq import RecurrentCache as RecurrentCache
from torch_attention.models.recurrent_seq2seq import RecurrentSeq2Seq as RecurrentSeq2Seq
from torch_attention.models.relative_encoder_decoder import RelativeEncoderDecoder as RelativeEncoderDecoder
from torch_attention.models.relative_encoder_decoder import (
    RelativeEncoderDecoderConfig as RelativeEncoderDecoderConfig,
)
from torch_attention.models.relative_encoder_decoder import RelativeLayer as RelativeLayer
from torch_attention.models.routing import SigmoidRouting as SigmoidRouting
from torch_attention.models.routing import SoftmaxRouting as SoftmaxRouting
from torch_attention.models.sampling import filter_scores as filter_scores
from torch_attention.models.seq2seq import SimpleSeq2Seq as SimpleSeq2Seq
from torch_attention.models.sequence import SequenceModel as SequenceModel
from torch_attention.models.sequence import SequenceToSequence as SequenceToSequence
from torch_attention.models.special_tokens import SpecialTokens as SpecialTokens
from torch_attention.models.speech import SpeechConfig as SpeechConfig
from torch_attention.models.speech import SpeechTransformer as SpeechTransformer
from torch_attention.models.task_model import TaskModel as TaskModel
from torch_attention.models.task_model import TaskSpec as TaskSpec
from torch_attention.models.tasks import EmbeddingHead as EmbeddingHead
from torch_attention.models.tasks import FirstToken as FirstToken
from torch_attention.models.tasks import LastToken as LastToken
from torch_attention.models.tasks import LearnedPooling as LearnedPooling
from torch_attention.models.tasks import MaskedLanguageHead as MaskedLanguageHead
from torch_attention.models.tasks import MeanPooling as MeanPooling
from torch_attention.models.tasks import NoHead as NoHead
from torch_attention.models.tasks import QuestionAnswering as QuestionAnswering
from torch_attention.models.tasks import RewardHead as RewardHead
from torch_attention.models.tasks import SequenceClassifier as SequenceClassifier
from torch_attention.models.tasks import TokenClassifier as TokenClassifier
from torch_attention.models.vision_transformer import VisionTransformer as VisionTransformer
from torch_attention.models.vision_transformer import VisionTransformerConfig as VisionTransformerConfig
from torch_attention.norms import layer_norm as layer_norm
from torch_attention.norms import rms_norm as rms_norm
