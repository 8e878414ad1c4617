from keras_cnnlstm.models.baselines import bag_of_frames as bag_of_frames
from keras_cnnlstm.models.baselines import early_fusion_cnn as early_fusion_cnn
from keras_cnnlstm.models.baselines import flat_mlp as flat_mlp
from keras_cnnlstm.models.baselines import image_cnn as image_cnn
from keras_cnnlstm.models.blocks import lstm_stack as lstm_stack
from keras_cnnlstm.models.calibration import Calibration as Calibration
from keras_cnnlstm.models.calibration import calibration_facts as calibration_facts
from keras_cnnlstm.models.calibration import (
    expected_calibration_error as expected_calibration_error,
)
from keras_cnnlstm.models.calibration import fit_temperature as fit_temperature
from keras_cnnlstm.models.calibration import negative_log_likelihood as negative_log_likelihood
from keras_cnnlstm.models.calibration import reliability as reliability
from keras_cnnlstm.models.calibration import scale_temperature as scale_temperature
from keras_cnnlstm.models.calibration import scaled as scaled
from keras_cnnlstm.models.calibration import softmax_head as softmax_head
from keras_cnnlstm.models.captioner import captioner as captioner
from keras_cnnlstm.models.cnn_lstm import cnn_lstm as cnn_lstm
from keras_cnnlstm.models.decoding import Beams as Beams
from keras_cnnlstm.models.decoding import beam_search as beam_search
from keras_cnnlstm.models.decoding import greedy_model as greedy_model
from keras_cnnlstm.models.encoders import ENCODERS as ENCODERS
from keras_cnnlstm.models.encoders import conv1d as conv1d
from keras_cnnlstm.models.encoders import conv_pool as conv_pool
from keras_cnnlstm.models.encoders import fewest_pixels as fewest_pixels
from keras_cnnlstm.models.encoders import paired_cnn as paired_cnn
from keras_cnnlstm.models.encoders import residual_cnn as residual_cnn
from keras_cnnlstm.models.encoders import small_cnn as small_cnn
from keras_cnnlstm.models.encoders import strided_cnn as strided_cnn
from keras_cnnlstm.models.ensembles import average_models as average_models
from keras_cnnlstm.models.ensembles import encoder_from as encoder_from
from keras_cnnlstm.models.ensembles import (
    with_test_time_augmentation as with_test_time_augmentation,
)
from keras_cnnlstm.models.graph import SplitModel as SplitModel
from keras_cnnlstm.models.graph import every_step_model as every_step_model
from keras_cnnlstm.models.graph import split_model as split_model
from keras_cnnlstm.models.imagenet import PRETRAINED as PRETRAINED
from keras_cnnlstm.models.imagenet import Network as Network
from keras_cnnlstm.models.imagenet import pretrained as pretrained
from keras_cnnlstm.models.imagenet import unfreeze as unfreeze
from keras_cnnlstm.models.registry import MODELS as MODELS
from keras_cnnlstm.models.scanning import crnn as crnn
from keras_cnnlstm.models.scanning import renet as renet
from keras_cnnlstm.models.scanning import scan_lstm as scan_lstm
from keras_cnnlstm.models.streaming import Answer as Answer
from keras_cnnlstm.models.streaming import FrameStream as FrameStream
from keras_cnnlstm.models.streaming import Stream as Stream
from keras_cnnlstm.models.streaming import step_model as step_model
