//! placeholder
/// spec
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct TokenizerSpec {}
