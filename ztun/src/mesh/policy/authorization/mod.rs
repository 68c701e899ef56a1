//! `security.istio.io` `AuthorizationPolicy` at layer 4: who may talk to whom.

mod model;

pub use model::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, ServiceAccount, Source, StringMatch,
    Values,
};
