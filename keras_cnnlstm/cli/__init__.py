"""The command `keras-cnnlstm`."""
