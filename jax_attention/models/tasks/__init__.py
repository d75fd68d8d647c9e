"""Task heads, which compute the outputs of a task from a model's last hidden states."""

from jax_attention.models.tasks.classification import DistilledClassifier as DistilledClassifier
from jax_attention.models.tasks.classification import SequenceClassifier as SequenceClassifier
from jax_attention.models.tasks.classification import TokenClassifier as TokenClassifier
from jax_attention.models.tasks.embedding import EmbeddingHead as EmbeddingHead
from jax_attention.models.tasks.late_classification import LateClassifier as LateClassifier
from jax_attention.models.tasks.linear_language import LinearLanguageHead as LinearLanguageHead
from jax_attention.models.tasks.masked_language import MaskedLanguageHead as MaskedLanguageHead
from jax_attention.models.tasks.no_head import NoHead as NoHead
from jax_attention.models.tasks.pooling import FirstAndMeanPooling as FirstAndMeanPooling
from jax_attention.models.tasks.pooling import FirstToken as FirstToken
from jax_attention.models.tasks.pooling import LastPosition as LastPosition
from jax_attention.models.tasks.pooling import LastToken as LastToken
from jax_attention.models.tasks.pooling import LearnedPooling as LearnedPooling
from jax_attention.models.tasks.pooling import MeanPooling as MeanPooling
from jax_attention.models.tasks.pooling import NormedPooling as NormedPooling
from jax_attention.models.tasks.question_answering import QuestionAnswering as QuestionAnswering
from jax_attention.models.tasks.reward import RewardHead as RewardHead
