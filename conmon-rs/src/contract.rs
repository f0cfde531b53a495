//! What crio-manager may rely on.
