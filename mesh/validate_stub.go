package mesh

// Validate implements Spec.
func (s *Mesh) Validate() Problems { return nil }

// Validate implements Spec.
func (s *Zone) Validate() Problems { return nil }

// Validate implements Spec.
func (s *Dataplane) Validate() Problems { return nil }

// Validate implements Spec.
func (s *Workload) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshService) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshMultiZoneService) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshZoneAddress) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshIdentity) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshTrust) Validate() Problems { return nil }

// Validate implements Spec.
func (s *Secret) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshTrafficPermission) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshTimeout) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshHTTPRoute) Validate() Problems { return nil }

// Validate implements Spec.
func (s *MeshTCPRoute) Validate() Problems { return nil }
