__version__: str

from keras_cnnlstm.config import TrainConfig as TrainConfig
from keras_cnnlstm.data import LabeledImages as LabeledImages
from keras_cnnlstm.data import digit_sequences as digit_sequences
from keras_cnnlstm.data import load_digits as load_digits
from keras_cnnlstm.layers import TimeDistributed as TimeDistributed
from keras_cnnlstm.models import cnn_lstm as cnn_lstm
from keras_cnnlstm.runtime import Runtime as Runtime
from keras_cnnlstm.tasks import Trend as Trend
from keras_cnnlstm.training import load_run as load_run
from keras_cnnlstm.training import train as train
