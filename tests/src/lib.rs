//! Nodes and pods from network namespaces.
