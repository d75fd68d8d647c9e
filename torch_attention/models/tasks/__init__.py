"""Task heads, which compute the outputs of a task from a model's last hidden states."""

from torch_attention.models.tasks.classification import DistilledClassifier as DistilledClassifier
from torch_attention.models.tasks.classification import SequenceClassifier as SequenceClassifier
from torch_attention.models.tasks.classification import TokenClassifier as TokenClassifier
from torch_attention.models.tasks.embedding import EmbeddingHead as EmbeddingHead
from torch_attention.models.tasks.late_classification import LateClassifier as LateClassifier
from torch_attention.models.tasks.linear_language import LinearLanguageHead as LinearLanguageHead
from torch_attention.models.tasks.masked_language import MaskedLanguageHead as MaskedLanguageHead
from torch_attention.models.tasks.no_head import NoHead as NoHead
from torch_attention.models.tasks.pooling import FirstAndMeanPooling as FirstAndMeanPooling
from torch_attention.models.tasks.pooling import FirstToken as FirstToken
from torch_attention.models.tasks.pooling import LastPosition as LastPosition
from torch_attention.models.tasks.pooling import LastToken as LastToken
from torch_attention.models.tasks.pooling import LearnedPooling as LearnedPooling
from torch_attention.models.tasks.pooling import MeanPooling as MeanPooling
from torch_attention.models.tasks.pooling import NormedPooling as NormedPooling
from torch_attention.models.tasks.question_answering import QuestionAnswering as QuestionAnswering
from torch_attention.models.tasks.reward import RewardHead as RewardHead
