from keras_cnnlstm.torch_weights.convert import Move as Move
from keras_cnnlstm.torch_weights.convert import Report as Report
from keras_cnnlstm.torch_weights.convert import load_torch as load_torch
from keras_cnnlstm.torch_weights.convert import to_torch as to_torch
from keras_cnnlstm.torch_weights.state_dict import read_state_dict as read_state_dict
from keras_cnnlstm.torch_weights.state_dict import write_state_dict as write_state_dict
