from keras_cnnlstm.runtime.cluster import Cluster as Cluster
from keras_cnnlstm.runtime.cluster import cluster_from_environment as cluster_from_environment
from keras_cnnlstm.runtime.memory import Estimate as Estimate
from keras_cnnlstm.runtime.memory import activation_memory as activation_memory
from keras_cnnlstm.runtime.memory import check_memory as check_memory
from keras_cnnlstm.runtime.memory import out_of_memory_hint as out_of_memory_hint
from keras_cnnlstm.runtime.replicated_model import ReplicatedModel as ReplicatedModel
from keras_cnnlstm.runtime.runtime import Runtime as Runtime
