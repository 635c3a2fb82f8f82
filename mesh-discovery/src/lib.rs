//! Native DNS of a Landbridge mesh: cluster.local and clusterset.local from services and exports.
